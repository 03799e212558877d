//! A damaged entry is never taken for complete, and never passed over.

use super::*;

/// Two manifests and a claim; the last entry is the one of the highest number.
async fn with_history(last_is_claim: bool) -> (Arc<InMemory>, ObjectStoreCheckpoints) {
    let (memory, store) = in_memory();
    store.open_run(&job()).await.unwrap();
    store.publish(&manifest(1, 1)).await.unwrap();
    store.publish(&manifest(1, 2)).await.unwrap();
    if last_is_claim {
        store.open_run(&job()).await.unwrap();
    }
    (memory, store)
}

/// No call takes the log for sound, and none changes it.
async fn assert_damaged(memory: &InMemory, store: &ObjectStoreCheckpoints, path: &str, what: &str) -> (String, String) {
    let before = objects(memory).await;
    let mut told = None;
    let calls = [
        store.latest(&job()).await.map(|_| ()),
        store.open_run(&job()).await.map(|_| ()),
        store.publish(&manifest(1, 2)).await,
    ];
    for result in calls {
        match result {
            Err(StoreError::Damaged { path: at, expected, got }) if at == path => told = Some((expected, got)),
            other => panic!("{what}: expected damage of {path}, got {other:?}"),
        }
    }
    assert_eq!(objects(memory).await, before, "{what}");
    told.unwrap()
}

#[tokio::test]
async fn i3_a_manifest_cut_short_anywhere_is_never_complete() {
    let (memory, store) = with_history(false).await;
    let path = objects(&*memory).await.pop().unwrap();
    let whole = object(&*memory, &path).await;
    for length in 0..whole.len() {
        overwrite(&*memory, &path, whole.slice(..length)).await;
        assert_damaged(&memory, &store, &path, &format!("cut to {length} of {}", whole.len())).await;
    }
    overwrite(&*memory, &path, whole).await;
    assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 2)), "the test must be able to fail");
}

#[tokio::test]
async fn i3_a_manifest_with_any_flipped_bit_is_never_complete() {
    let (memory, store) = with_history(false).await;
    let path = objects(&*memory).await.pop().unwrap();
    let whole = object(&*memory, &path).await;
    for byte in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.to_vec();
            damaged[byte] ^= 1 << bit;
            overwrite(&*memory, &path, damaged).await;
            assert_damaged(&memory, &store, &path, &format!("bit {bit} of byte {byte}")).await;
        }
    }
}

#[tokio::test]
async fn i3_a_damaged_manifest_before_a_claim_is_not_passed_over() {
    let (memory, store) = with_history(true).await;
    let paths = objects(&*memory).await;
    let path = &paths[paths.len() - 2];
    let whole = object(&*memory, path).await;
    for damaged in [whole.slice(..whole.len() - 1), Bytes::new()] {
        overwrite(&*memory, path, damaged).await;
        for error in [store.latest(&job()).await.unwrap_err(), store.open_run(&job()).await.unwrap_err()] {
            assert!(matches!(&error, StoreError::Damaged { path: at, .. } if at == path), "{error}");
        }
        assert_eq!(objects(&*memory).await, paths, "a run that can't restore does not claim");
    }
    memory.delete(&Path::parse(path).unwrap()).await.unwrap();
    let error = store.open_run(&job()).await.unwrap_err().to_string();
    let expected = format!(
        "`{path}` is damaged: expected the manifest of epoch 2, as entry 4 says, got no such object; \
         restore it from a copy, or start over without it"
    );
    assert_eq!(error, expected);
}

#[tokio::test]
async fn every_kind_of_damage_says_what_was_expected_and_got() {
    let (memory, store) = with_history(false).await;
    let path = objects(&*memory).await.pop().unwrap();
    let whole = object(&*memory, &path).await;
    let text = String::from_utf8(whole.to_vec()).unwrap();
    let (header, body) = text.split_once('\n').unwrap();
    let fields: Vec<_> = header.split(' ').collect();
    let length: usize = fields[2].parse().unwrap();
    let moved = Entry { number: 9, ..Entry::decode(&whole, &job(), 3).unwrap() }.encode().unwrap();
    let foreign = Entry { job: JobId::new("other"), ..Entry::decode(&whole, &job(), 3).unwrap() }.encode().unwrap();
    let no_json = "{\"job\":1}";
    let no_json = format!("winddown-log 1 {} {:08x}\n{no_json}", no_json.len(), crc32fast::hash(no_json.as_bytes()));
    let bytes = |count: usize| format!("{count} bytes");
    let (right, short, long) = (bytes(length), bytes(length - 5), bytes(length + 1));
    let cases: Vec<(Bytes, &str, &str)> = vec![
        (Bytes::new(), "a header line of `winddown-log`", "an empty object"),
        (Bytes::from_static(b"winddown-log"), "a header line of `winddown-log`", "12 bytes without one"),
        (Bytes::from_static(b"\xff\n{}"), "a header line of `winddown-log`", "bytes that are not ASCII"),
        (text.replacen("winddown", "windfall", 1).into(), "`winddown-log` at the start", "`windfall-log 1"),
        (text.replacen("log 1", "log 2", 1).into(), "(upgrade it)", "version 2"),
        (text.replacen("log 1", "log one", 1).into(), "format version 1", "`winddown-log one"),
        (whole.slice(..whole.len() - 5), &right, &short),
        (format!("{text}x").into(), &right, &long),
        (format!("{header}\n{}", body.replacen("job", "jab", 1)).into(), "the header `winddown-log 1", fields[3]),
        (moved, "entry 3", "entry 9"),
        (foreign, "an entry of job `job`", "one of job `other`"),
        (no_json.into(), "a claim or a manifest as JSON", "JSON that is neither: "),
    ];
    for (damaged, expected, got) in cases {
        overwrite(&*memory, &path, damaged).await;
        let told = assert_damaged(&memory, &store, &path, expected).await;
        assert!(told.0.contains(expected), "expected {expected:?} in {:?}", told.0);
        assert!(told.1.contains(got), "expected {got:?} in {:?}", told.1);
    }
}

#[tokio::test]
async fn deleting_a_damaged_last_entry_by_hand_goes_back_to_the_one_before() {
    let (memory, store) = with_history(false).await;
    let path = objects(&*memory).await.pop().unwrap();
    overwrite(&*memory, &path, "damaged").await;
    store.latest(&job()).await.unwrap_err();
    memory.delete(&Path::parse(&path).unwrap()).await.unwrap();
    let expected = OpenRun::new(job(), RunId::new(2), Some(manifest(1, 1))).unwrap();
    assert_eq!(store.open_run(&job()).await.unwrap(), expected);
}

#[tokio::test]
async fn a_log_that_can_not_go_on_says_so() {
    for (number, run) in [(u64::MAX, 1), (1, u64::MAX)] {
        let (memory, store) = in_memory();
        let entry = Entry { job: job(), number, run: RunId::new(run), kept: vec![], manifest: None };
        overwrite(&*memory, &format!("checkpoints/job/log/{number:020}"), entry.encode().unwrap()).await;
        let error = store.open_run(&job()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { got, .. } if got == "the highest"), "{error}");
    }
}
