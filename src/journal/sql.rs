//! A journal in a database: SQLite or PostgreSQL.

use std::{fmt, path::Path, sync::Once, time::Duration};

use sqlx::{Any, AnyConnection, AnyPool, Executor as _, Row as _, any::AnyPoolOptions, pool::PoolConnection};

use super::format::{decode, encode, escaped, key, refusal};
use crate::{
    contracts::JobId,
    durable,
    envelope::Mismatch,
    machine::{
        Journal, JournalError, PhaseRecord,
        record::{Write, may_write},
    },
};

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS winddown_journal (job TEXT NOT NULL PRIMARY KEY, record TEXT NOT NULL)";
const PROBE: &str = "SELECT job, record FROM winddown_journal WHERE 1 = 0";
const LOAD: &str = "SELECT record FROM winddown_journal WHERE job = $1";
const FIRST: &str = "INSERT INTO winddown_journal (job, record) VALUES ($1, $2) ON CONFLICT (job) DO NOTHING";
const NEXT: &str = "UPDATE winddown_journal SET record = $2 WHERE job = $1 AND record = $3";

/// A journal writes only a few times per shutdown, so this is enough for a thousand jobs.
const CONNECTIONS: u32 = 4;
/// How long a call waits for a connection, so that it fails with a reason within
/// [`Limits::journal`](crate::limits::Limits::journal).
const ACQUIRE: Duration = Duration::from_secs(4);
/// How often one call reads again because another controller was faster. Except for the last time,
/// that one has advanced the job.
const LOOKS: usize = 16;
/// How often creating the table is tried: other controllers may start at the same time.
const CREATIONS: usize = 20;
/// The time between two attempts at it.
const CREATE_EVERY: Duration = Duration::from_millis(50);

/// A journal in a database, with one row per job: the same code for SQLite and PostgreSQL.
///
/// The table is created if it does not exist. If the controller's role may not do that, create it
/// beforehand:
///
/// ```sql
/// CREATE TABLE winddown_journal (
///     job    TEXT NOT NULL PRIMARY KEY, -- the job's name, its special characters as in a URL
///     record TEXT NOT NULL              -- the record: see the module's page
/// );
/// ```
///
/// and grant `SELECT`, `INSERT` and `UPDATE` on it.
///
/// # Durability
/// - **SQLite** (compiled in, nothing to install) runs with `journal_mode = WAL` and
///   `synchronous = FULL`: a commit is synced to disk before a write returns. A database that can't
///   do that, such as one in memory, is refused. It must be on a local file system, and serves
///   controllers on one machine.
/// - **PostgreSQL**: if the `synchronous_commit` of a session is `off`, it is set to `on`; other
///   settings are the operator's choice. A server with `fsync = off` loses records in a crash,
///   which this crate can't prevent.
///
/// # TLS
/// Connections to PostgreSQL use rustls with the system's root certificates, as `sslmode` in the
/// URL says (default `prefer`; `verify-full` checks the server's name).
///
/// Cheap to clone: clones share up to four connections.
///
/// ```
/// use winddown::{SqlJournal, journal::Journal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let journal = SqlJournal::sqlite(folder.path().join("journal.sqlite")).await?;
/// assert_eq!(journal.load(&"words".into()).await?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqlJournal {
    pool: AnyPool,
    backend: Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    fn of(connection: &AnyConnection) -> Self {
        if connection.backend_name() == "SQLite" { Self::Sqlite } else { Self::Postgres }
    }

    /// The first statements of each connection.
    const fn set_up(self) -> &'static str {
        match self {
            // It waits 3 s for another writer: well within `Limits::journal`, so that its error
            // gives the reason.
            Self::Sqlite => "PRAGMA synchronous = FULL; PRAGMA busy_timeout = 3000",
            Self::Postgres => {
                "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
            }
        }
    }
}

impl SqlJournal {
    /// The journal in the SQLite database at `path`. The database and its parent folders are
    /// created if they do not exist.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] when the database can't be created or used.
    ///
    /// # Cancel safety
    /// A dropped call may have created the database; the next one uses it.
    pub async fn sqlite(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        Self::connect(&sqlite_url(path.as_ref())?).await
    }

    /// The journal in the database at `url`: `postgres://user@host/database` or
    /// `sqlite:///path?mode=rwc`, with the parameters that sqlx documents for `PgConnectOptions`
    /// and `SqliteConnectOptions`.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] if the database can't be reached, or does not persist data.
    ///
    /// # Cancel safety
    /// A dropped call may have created the table; the next one uses it.
    pub async fn connect(url: &str) -> Result<Self, JournalError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let options = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE);
        let options = options.after_connect(|connection, _| {
            Box::pin(async move {
                let set_up = Backend::of(connection).set_up();
                connection.execute(set_up).await.map(drop)
            })
        });
        let pool = options.connect(url).await.map_err(unavailable)?;
        let mut lease = Lease::take(&pool).await?;
        let backend = Backend::of(lease.connection());
        if backend == Backend::Sqlite {
            use_write_ahead_log(lease.connection()).await?;
        }
        create_table(lease.connection()).await?;
        lease.give_back();
        Ok(Self { pool, backend })
    }

    /// The text of the job's row.
    async fn look(&self, connection: &mut AnyConnection, job: &JobId) -> Result<Option<String>, JournalError> {
        let row = sqlx::query(LOAD).bind(key(job)).fetch_optional(connection).await.map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        row.try_get(0).map(Some).map_err(|error| {
            let unsound = Mismatch::new("text", format!("a value that is none: {error}")).into();
            refusal(unsound, job, self.describe(job))
        })
    }

    fn read(&self, text: Option<&String>, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        let record = text.map(|text| decode(text.as_bytes(), job)).transpose();
        record.map_err(|unsound| refusal(unsound, job, self.describe(job)))
    }

    fn describe(&self, job: &JobId) -> String {
        format!("table winddown_journal, job = '{}' ({:?})", key(job), self.backend)
    }

    /// Retries the compare-and-set until it succeeds, or until the stored record forbids it.
    async fn set(&self, connection: &mut AnyConnection, record: &PhaseRecord) -> Result<(), JournalError> {
        let new = encode(record)?;
        for _ in 0..LOOKS {
            let old = self.look(connection, &record.job).await?;
            if may_write(self.read(old.as_ref(), &record.job)?.as_ref(), record)? == Write::AlreadyThere {
                // It is also durable: both databases show a row only once it is.
                return Ok(());
            }
            // The number of affected rows decides, not what was read: another writer may have been
            // faster.
            let statement = sqlx::query(if old.is_none() { FIRST } else { NEXT });
            let statement = statement.bind(key(&record.job)).bind(new.clone());
            let statement = old.into_iter().fold(statement, sqlx::query::Query::bind);
            let done = statement.execute(&mut *connection).await.map_err(unavailable)?;
            if done.rows_affected() == 1 {
                return Ok(());
            }
        }
        Err(JournalError::Unavailable("other controllers write the job's record all the time".into()))
    }
}

impl Journal for SqlJournal {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        let mut lease = Lease::take(&self.pool).await?;
        let text = self.look(lease.connection(), job).await?;
        lease.give_back();
        self.read(text.as_ref(), job)
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        let mut lease = Lease::take(&self.pool).await?;
        let written = self.set(lease.connection(), record).await;
        if !matches!(written, Err(JournalError::Unavailable(_))) {
            lease.give_back();
        }
        written
    }
}

impl fmt::Debug for SqlJournal {
    /// Without the URL, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlJournal").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// A connection that goes back to the pool only after a complete exchange.
///
/// Otherwise the pool would wait without a deadline for the end of the dropped one. During a
/// partition, each call that times out would use up another connection.
struct Lease(Option<PoolConnection<Any>>);

impl Lease {
    async fn take(pool: &AnyPool) -> Result<Self, JournalError> {
        Ok(Self(Some(pool.acquire().await.map_err(unavailable)?)))
    }

    #[expect(clippy::expect_used, reason = "the message is the proof")]
    fn connection(&mut self) -> &mut AnyConnection {
        self.0.as_mut().expect("a lease has its connection until it is given back, which consumes it")
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}

/// It is a property of the file: the first connection sets it for all.
async fn use_write_ahead_log(connection: &mut AnyConnection) -> Result<(), JournalError> {
    let mut last = None;
    for _ in 0..CREATIONS {
        // Unlike elsewhere, SQLite does not wait for a lock here.
        match sqlx::query("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await {
            Ok(row) => {
                let mode: String = row.try_get(0).map_err(unavailable)?;
                if mode == "wal" {
                    return Ok(());
                }
                let error = format!(
                    "expected a SQLite database with a write-ahead log, got mode `{mode}`: use a file on a local disk"
                );
                return Err(JournalError::Unavailable(error.into()));
            }
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(CREATE_EVERY).await;
    }
    Err(last.map_or_else(|| JournalError::Unavailable("it was not tried".into()), unavailable))
}

/// Creates the table unless it exists. A role that may not create tables needs an existing one.
async fn create_table(connection: &mut AnyConnection) -> Result<(), JournalError> {
    let mut last = None;
    for _ in 0..CREATIONS {
        if sqlx::query(PROBE).fetch_optional(&mut *connection).await.is_ok() {
            return Ok(());
        }
        // Two controllers that create it at the same time do not conflict, but PostgreSQL reports
        // an error to one of them.
        match sqlx::query(CREATE).execute(&mut *connection).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(CREATE_EVERY).await;
    }
    Err(last.map_or_else(|| JournalError::Unavailable("it was not tried".into()), unavailable))
}

/// The URL of the database file at `path`. Creates its folder.
fn sqlite_url(path: &Path) -> Result<String, JournalError> {
    let refused = |why: &str| JournalError::Unavailable(format!("`{}` {why}", path.display()).into());
    let name = path.file_name().ok_or_else(|| refused("is not the path of a file"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let folder = durable::create_folder(folder).map_err(|error| JournalError::Unavailable(error.into()))?;
    let file = folder.join(name);
    let file = file.to_str().ok_or_else(|| refused("is not UTF-8"))?;
    Ok(format!("sqlite://{}?mode=rwc", escaped(file, "/-_.")))
}

fn unavailable(error: sqlx::Error) -> JournalError {
    JournalError::Unavailable(error.into())
}

#[cfg(test)]
#[path = "tests/sql.rs"]
mod tests;
