use super::*;

/// Tries `work` with a crash after 0, 1, 2, … steps, and `look`s each time at what is there, until it succeeds. The
/// number of crashes.
fn crash_everywhere(work: impl Fn() -> io::Result<()>, look: impl Fn()) -> usize {
    let mut crashes = 0;
    while crash::after(crashes, &work).0.is_err() {
        look();
        crashes += 1;
    }
    look();
    crashes
}

#[test]
fn a_replaced_file_is_old_or_new_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    replace(&path, b"old").unwrap();
    let crashes = crash_everywhere(
        || replace(&path, b"new and longer"),
        || assert!(matches!(&*fs::read(&path).unwrap(), b"old" | b"new and longer")),
    );
    assert_eq!(crashes, 5);
    assert_eq!(fs::read(&path).unwrap(), b"new and longer");
    assert!(!unfinished(&path).exists());
}

#[test]
fn nothing_gets_its_name_before_it_is_synced_and_nothing_returns_before_its_name_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let steps = |work: &dyn Fn() -> io::Result<()>| {
        let (result, steps) = crash::after(usize::MAX, work);
        result.unwrap();
        steps
    };
    let filled = ["create", "write on", "sync the file"];
    assert_eq!(steps(&|| write(&path, b"x")), [&filled[..], &["sync the folder"]].concat());
    assert_eq!(steps(&|| replace(&path, b"y")), [&filled[..], &["rename", "sync the folder"]].concat());
    assert_eq!(steps(&|| remove(&path)), ["remove", "sync the folder"]);
    assert_eq!(steps(&|| remove_folder(&path)), ["remove the folder", "sync the folder"]);
}

#[test]
fn every_new_folder_has_a_durable_name_even_if_a_crash_left_some() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b");
    let crashes = crash_everywhere(|| create_folder(&deep).map(drop), || {});
    assert!(crashes >= 4, "{crashes}");
    // A crash between a folder and its name leaves the name to the next call.
    for steps in 0..5 {
        remove_folder(&dir.path().join("a")).unwrap();
        let (_, before) = crash::after(steps, || create_folder(&deep));
        let (created, after) = crash::after(usize::MAX, || create_folder(&deep));
        assert_eq!(created.unwrap(), fs::canonicalize(&deep).unwrap());
        let last = before.last().is_some_and(|&step| step == "create the folder");
        assert!(!last || after.first() == Some(&"sync the folder"), "{before:?}, then {after:?}");
    }
}

#[test]
fn a_folder_is_created_below_any_kind_of_path() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(create_folder(Path::new("/")).unwrap(), Path::new("/"));
    create_folder(Path::new(".")).unwrap();
    let folder = create_folder(&dir.path().join("a/../b")).unwrap();
    assert_eq!(folder, fs::canonicalize(dir.path()).unwrap().join("b"));
    write(&dir.path().join("file"), b"").unwrap();
    create_folder(&dir.path().join("file/below")).unwrap_err();
}

#[test]
fn what_does_not_exist_counts_as_removed() {
    let dir = tempfile::tempdir().unwrap();
    remove(&dir.path().join("none")).unwrap();
    remove_folder(&dir.path().join("none")).unwrap();
    assert_eq!(rename(&dir.path().join("none"), &dir.path().join("x")).unwrap_err().kind(), io::ErrorKind::NotFound);
}
