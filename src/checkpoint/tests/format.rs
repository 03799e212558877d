//! The bytes of an entry.

use proptest::{collection::vec, option, prelude::*};

use super::*;

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn any_task() -> impl Strategy<Value = TaskSnapshot> {
    (any::<(u32, u32, bool)>(), any_bytes(), option::of(any_bytes())).prop_map(
        |((operator, subtask, finished), snapshot, commit)| TaskSnapshot {
            task: TaskId::new(operator, subtask),
            snapshot,
            commit,
            finished,
        },
    )
}

fn any_manifest() -> impl Strategy<Value = Manifest> {
    (any::<(String, u64, u64, bool)>(), vec(any_task(), 0..6)).prop_map(|((job, run, epoch, then_stop), tasks)| {
        Manifest { job: JobId::new(job), run: RunId::new(run), epoch: Epoch::new(epoch), then_stop, tasks }
    })
}

fn any_kept() -> impl Strategy<Value = Kept> {
    any::<(u64, u64, u64)>().prop_map(|(number, run, epoch)| Kept {
        number,
        run: RunId::new(run),
        epoch: Epoch::new(epoch),
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any_manifest(), any::<(u64, bool)>(), vec(any_kept(), 0..4)).prop_map(|(manifest, (number, is_claim), kept)| {
        Entry { job: manifest.job.clone(), number, run: manifest.run, kept, manifest: (!is_claim).then_some(manifest) }
    })
}

proptest! {
    #[test]
    fn any_entry_comes_back_as_it_was(entry in any_entry()) {
        let object = entry.encode().unwrap();
        prop_assert_eq!(Entry::decode(&object, &entry.job, entry.number), Ok(entry));
    }

    #[test]
    fn any_other_bytes_are_a_mismatch(object in vec(any::<u8>(), 0..200)) {
        prop_assert!(Entry::decode(&object, &job(), 1).is_err());
    }

    #[test]
    fn any_manifest_is_restored_as_it_was_published(manifest in any_manifest()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let restored = runtime.block_on(async {
            let (_, store) = in_memory();
            store.publish(&manifest).await.unwrap();
            store.latest(&manifest.job).await.unwrap()
        });
        prop_assert_eq!(restored, Some(manifest));
    }
}

/// The format is a promise to later versions: this is what version 1 writes.
#[test]
fn the_format_is_the_documented_one() {
    let entry = Entry {
        job: job(),
        number: 3,
        run: RunId::new(1),
        kept: vec![Kept { number: 2, run: RunId::new(1), epoch: Epoch::new(1) }],
        manifest: Some(manifest(1, 2)),
    };
    let body = concat!(
        r#"{"job":"job","number":3,"run":1,"kept":[{"number":2,"run":1,"epoch":1}],"#,
        r#""checkpoint":{"epoch":2,"then_stop":false,"tasks":["#,
        r#"{"operator":0,"subtask":1,"snapshot":"c3RhdGUgMg==","commit":"AP8=","finished":false}]}}"#,
    );
    let expected = format!("winddown-log 1 {} {:08x}\n{body}", body.len(), crc32fast::hash(body.as_bytes()));
    assert_eq!(entry.encode().unwrap(), expected);
}
