//! Journals: a folder, SQLite, PostgreSQL, the scripted one, and none.

use std::{
    env,
    io::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};

use sqlx::{AnyPool, Executor as _, Row as _, any::AnyPoolOptions};
use winddown::{
    FileJournal, JobId, SqlJournal,
    journal::NoJournal,
    testing::{
        conformance::{self, Damage, Hook, JournalSubject, Rule},
        scripted::ScriptedJournal,
    },
};

use crate::{
    assert_kept,
    place::{Place, damage_file, damaged},
};

struct Folder(Place);

impl JournalSubject for Folder {
    type Journal = FileJournal;

    async fn open(&self) -> FileJournal {
        FileJournal::open(self.0.path()).unwrap()
    }

    async fn crash(&self) -> Hook {
        self.0.crash();
        Hook::Done
    }

    async fn damage(&self, job: &JobId, damage: Damage) -> Hook {
        damage_file(&self.0.path().join(format!("job-{job}.record")), damage);
        Hook::Done
    }
}

#[tokio::test]
async fn a_file_journal_keeps_its_contract() {
    assert_kept(conformance::journal(async || Folder(Place::new())).await, &[], &[]);
}

struct Sqlite(Place);

impl Sqlite {
    async fn pool(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        let url = format!("sqlite://{}", self.0.path().join("journal.sqlite").display());
        AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap()
    }
}

impl JournalSubject for Sqlite {
    type Journal = SqlJournal;

    async fn open(&self) -> SqlJournal {
        SqlJournal::sqlite(self.0.path().join("journal.sqlite")).await.unwrap()
    }

    async fn crash(&self) -> Hook {
        self.0.crash();
        Hook::Done
    }

    async fn damage(&self, job: &JobId, damage: Damage) -> Hook {
        damage_row(&self.pool().await, job, damage).await;
        Hook::Done
    }
}

async fn damage_row(pool: &AnyPool, job: &JobId, damage: Damage) {
    let row = sqlx::query("SELECT record FROM winddown_journal WHERE job = $1").bind(job.as_str());
    let text: String = row.fetch_one(pool).await.unwrap().get(0);
    let text = String::from_utf8(damaged(text.as_bytes(), damage)).unwrap();
    let update = sqlx::query("UPDATE winddown_journal SET record = $2 WHERE job = $1").bind(job.as_str()).bind(text);
    assert_eq!(update.execute(pool).await.unwrap().rows_affected(), 1);
}

#[tokio::test]
async fn a_sqlite_journal_keeps_its_contract() {
    assert_kept(conformance::journal(async || Sqlite(Place::new())).await, &[], &[]);
}

/// A schema of its own on the server, dropped at the end.
struct Postgres {
    server: AnyPool,
    schema: String,
    url: String,
}

impl Postgres {
    async fn new(url: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        sqlx::any::install_default_drivers();
        let schema = format!("winddown_conformance_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let server = AnyPoolOptions::new().max_connections(1).connect(url).await.unwrap();
        for statement in [format!("DROP SCHEMA IF EXISTS {schema} CASCADE"), format!("CREATE SCHEMA {schema}")] {
            server.execute(statement.as_str()).await.unwrap();
        }
        let joint = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{joint}options[search_path]={schema}");
        Self { server, schema, url }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let (pool, statement) = (self.server.clone(), format!("DROP SCHEMA {} CASCADE", self.schema));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async { pool.execute(statement.as_str()).await.map(drop) })
        })
        .unwrap();
    }
}

impl JournalSubject for Postgres {
    type Journal = SqlJournal;

    async fn open(&self) -> SqlJournal {
        SqlJournal::connect(&self.url).await.unwrap()
    }

    async fn damage(&self, job: &JobId, damage: Damage) -> Hook {
        let pool = AnyPoolOptions::new().max_connections(1).connect(&self.url).await.unwrap();
        damage_row(&pool, job, damage).await;
        pool.close().await;
        Hook::Done
    }
}

#[tokio::test]
async fn a_postgres_journal_keeps_its_contract() {
    const POSTGRES: &str = "WINDDOWN_TEST_POSTGRES";
    let Ok(url) = env::var(POSTGRES) else {
        // Not `eprintln`: the test harness would keep it to itself.
        drop(writeln!(io::stderr(), "skipped: no PostgreSQL (set {POSTGRES})"));
        return;
    };
    let report = conformance::journal(async move || Postgres::new(&url).await).await;
    // A server can't be made to crash from here.
    assert_kept(report, &[Rule::JournalDurable], &[]);
}

struct Script(ScriptedJournal);

impl JournalSubject for Script {
    type Journal = ScriptedJournal;

    async fn open(&self) -> ScriptedJournal {
        self.0.clone()
    }
}

#[tokio::test]
async fn the_scripted_journal_keeps_its_contract() {
    let report = conformance::journal(async || Script(ScriptedJournal::default())).await;
    // It is memory: there is nothing to crash or to damage.
    let not_checked = [Rule::JournalDurable, Rule::JournalDamage, Rule::JournalNewerVersion, Rule::JournalKeepsDamage];
    assert_kept(report, &not_checked, &[]);
}

struct Nothing;

impl JournalSubject for Nothing {
    type Journal = NoJournal;

    async fn open(&self) -> NoJournal {
        NoJournal
    }

    fn keeps_records(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn no_journal_says_that_it_keeps_nothing() {
    let report = conformance::journal(async || Nothing).await;
    let about_calls = [Rule::JournalStartsEmpty, Rule::JournalWriteAgain, Rule::JournalCancelSafe];
    let others = report.findings().iter().map(|(rule, _)| *rule).filter(|rule| !about_calls.contains(rule));
    let others: Vec<_> = others.collect();
    assert_kept(report, &[], &others);
}
