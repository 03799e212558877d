//! What is special about databases: their settings, their errors, their connections.

use std::{
    env,
    io::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::journal::tests::{Site, record};

/// The URL of a PostgreSQL server that tests may use.
const POSTGRES: &str = "WINDDOWN_TEST_POSTGRES";

struct Sqlite(TempDir);

impl Sqlite {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn journal(&self) -> SqlJournal {
        SqlJournal::sqlite(self.0.path().join("not/yet there/100% #1?.sqlite")).await.unwrap()
    }
}

impl Site for Sqlite {
    type Journal = SqlJournal;

    async fn new() -> Option<Self> {
        Some(Self::empty())
    }

    async fn open(&self) -> SqlJournal {
        self.journal().await
    }

    async fn text(&self, job: &JobId) -> Vec<u8> {
        text(&self.journal().await, job).await
    }

    async fn set_text(&self, job: &JobId, text: &[u8]) {
        set_text(&self.journal().await, job, text).await;
    }
}

/// A schema of its own on the server, dropped at the end.
struct Postgres {
    server: AnyPool,
    schema: String,
    url: String,
}

impl Postgres {
    async fn with(settings: &str) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Ok(url) = env::var(POSTGRES) else {
            // Not `eprintln`: the test harness would keep it to itself.
            static SAID: Once = Once::new();
            SAID.call_once(|| drop(writeln!(io::stderr(), "skipped: no PostgreSQL (set {POSTGRES})")));
            return None;
        };
        let schema = format!("winddown_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Not a journal: that would leave its table in the server's own schema.
        sqlx::any::install_default_drivers();
        let server = AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        for statement in [format!("DROP SCHEMA IF EXISTS {schema} CASCADE"), format!("CREATE SCHEMA {schema}")] {
            server.execute(statement.as_str()).await.unwrap();
        }
        let joint = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{joint}options[search_path]={schema}{settings}");
        Some(Self { server, schema, url })
    }

    async fn journal(&self) -> SqlJournal {
        SqlJournal::connect(&self.url).await.unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let (pool, statement) = (self.server.clone(), format!("DROP SCHEMA {} CASCADE", self.schema));
        let dropped = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async { pool.execute(statement.as_str()).await.map(drop) })
        });
        if !std::thread::panicking() {
            dropped.unwrap();
        }
    }
}

impl Site for Postgres {
    type Journal = SqlJournal;

    async fn new() -> Option<Self> {
        Self::with("").await
    }

    async fn open(&self) -> SqlJournal {
        self.journal().await
    }

    async fn text(&self, job: &JobId) -> Vec<u8> {
        text(&self.journal().await, job).await
    }

    async fn set_text(&self, job: &JobId, text: &[u8]) {
        set_text(&self.journal().await, job, text).await;
    }
}

/// The same at the isolation level at which the server gives up instead of waiting.
struct Serializable(Postgres);

impl Site for Serializable {
    type Journal = SqlJournal;

    async fn new() -> Option<Self> {
        Postgres::with("&options[default_transaction_isolation]=serializable").await.map(Self)
    }

    async fn open(&self) -> SqlJournal {
        self.0.open().await
    }

    async fn text(&self, job: &JobId) -> Vec<u8> {
        self.0.text(job).await
    }

    async fn set_text(&self, job: &JobId, text: &[u8]) {
        self.0.set_text(job, text).await;
    }
}

async fn text(journal: &SqlJournal, job: &JobId) -> Vec<u8> {
    let mut connection = journal.pool.acquire().await.unwrap();
    journal.look(&mut connection, job).await.unwrap().unwrap().into_bytes()
}

async fn set_text(journal: &SqlJournal, job: &JobId, text: &[u8]) {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let statement =
        "INSERT INTO winddown_journal (job, record) VALUES ($1, $2) ON CONFLICT (job) DO UPDATE SET record = $2";
    sqlx::query(statement).bind(key(job)).bind(text).execute(&journal.pool).await.unwrap();
}

async fn setting(journal: &SqlJournal, question: &str) -> String {
    let row = sqlx::query(question).fetch_one(&journal.pool).await.unwrap();
    row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|number| number.to_string())).unwrap()
}

mod sqlite {
    crate::journal::tests::contract!(super::Sqlite);
}

mod postgres {
    crate::journal::tests::contract!(super::Postgres);
}

mod postgres_serializable {
    crate::journal::tests::contract! { super::Serializable:
        i11_two_writers_of_one_revision_are_told_apart
        i11_of_fifty_writers_at_once_one_wins
    }
}

#[tokio::test]
async fn i7_sqlite_syncs_each_commit_on_every_connection() {
    let site = Sqlite::empty();
    let journal = site.journal().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = journal.pool.acquire().await.unwrap();
        for (question, expected) in [("PRAGMA journal_mode", "wal"), ("PRAGMA synchronous", "2")] {
            let row = sqlx::query(question).fetch_one(&mut *connection).await.unwrap();
            let got = row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|full| full.to_string()));
            assert_eq!(got.unwrap(), expected, "{question}");
        }
        held.push(connection);
    }
}

#[tokio::test]
async fn i7_a_database_that_keeps_nothing_is_refused() {
    let error = SqlJournal::connect("sqlite::memory:").await.unwrap_err();
    assert!(
        error.to_string().contains("expected a SQLite database with a write-ahead log, got mode `memory`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable() {
    let site = Sqlite::empty();
    let missing = format!("sqlite://{}/missing.sqlite?mode=rw", site.0.path().display());
    for url in [missing.as_str(), "sqlite", "mysql://127.0.0.1/db", "postgres://winddown@127.0.0.1:1/none"] {
        let error = SqlJournal::connect(url).await.unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "{url}: {error}");
    }
}

#[tokio::test]
async fn a_value_of_another_type_is_corrupt() {
    let site = Sqlite::empty();
    let journal = site.journal().await;
    journal.pool.execute("INSERT INTO winddown_journal VALUES ('words', x'ff00')").await.unwrap();
    for result in [journal.load(&"words".into()).await.map(drop), journal.write(&record(1, 1)).await] {
        let error = result.unwrap_err();
        assert!(matches!(&error, JournalError::Corrupt { expected, .. } if expected == "text"), "{error}");
        assert!(error.to_string().contains("table winddown_journal, job = 'words' (Sqlite)"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_postgres_session_that_would_not_wait_for_the_disk_is_made_to() {
    for (configured, used) in [("off", "on"), ("local", "local"), ("on", "on")] {
        let Some(site) = Postgres::with(&format!("&options[synchronous_commit]={configured}")).await else { return };
        assert_eq!(setting(&site.journal().await, "SHOW synchronous_commit").await, used);
    }
}

/// Writes that time out at a lock take no connection away from the calls after them.
async fn assert_dropped_calls_free_their_connections(
    journal: SqlJournal,
    blocker: SqlJournal,
    lock: &str,
    unlock: &str,
) {
    journal.write(&record(1, 1)).await.unwrap();
    let mut connection = blocker.pool.acquire().await.unwrap();
    connection.execute(lock).await.unwrap();
    for _ in 0..2 * CONNECTIONS {
        timeout(Duration::from_millis(100), journal.write(&record(1, 2))).await.expect_err("the row is locked");
    }
    assert_eq!(journal.load(&"words".into()).await.unwrap(), Some(record(1, 1)), "reading waits for nobody");
    connection.execute(unlock).await.unwrap();
    journal.write(&record(1, 2)).await.unwrap();
    assert_eq!(journal.load(&"words".into()).await.unwrap(), Some(record(1, 2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_free_their_connections_to_sqlite() {
    let site = Sqlite::empty();
    let (journal, blocker) = (site.journal().await, site.journal().await);
    assert_dropped_calls_free_their_connections(journal, blocker, "BEGIN IMMEDIATE", "ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_free_their_connections_to_postgres() {
    let Some(site) = Postgres::with("").await else { return };
    let (journal, blocker) = (site.journal().await, site.journal().await);
    let lock = "BEGIN; SELECT job FROM winddown_journal FOR UPDATE";
    assert_dropped_calls_free_their_connections(journal, blocker, lock, "ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_open_an_empty_database_at_once_all_succeed() {
    async fn open_at_once<S: Site + Sync>(site: &S) {
        futures_util::future::join_all((0..8).map(|_| site.open())).await;
    }
    open_at_once(&Sqlite::empty()).await;
    if let Some(site) = Postgres::with("").await {
        open_at_once(&site).await;
    }
}

#[tokio::test]
async fn a_url_with_a_password_is_not_printed() {
    let site = Sqlite::empty();
    assert_eq!(format!("{:?}", site.journal().await), "SqlJournal { backend: Sqlite, .. }");
}
