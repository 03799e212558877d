use super::*;

#[test]
fn a_replaced_file_is_old_or_new_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    replace(&path, b"old").unwrap();
    let mut steps = 0;
    while crash::after(steps, || replace(&path, b"new and longer")).0.is_err() {
        assert!(matches!(&*fs::read(&path).unwrap(), b"old" | b"new and longer"), "after {steps} steps");
        steps += 1;
    }
    assert_eq!(steps, 5);
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
fn b14_the_entries_that_lead_to_a_folder_are_synced_whether_it_exists_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b");
    let expected = fs::canonicalize(dir.path()).unwrap().join("a/b").ancestors().count() - 1;
    for made_before in [false, true] {
        let (created, steps) = crash::after(usize::MAX, || create_folder(&folder));
        assert_eq!(created.unwrap(), fs::canonicalize(&folder).unwrap());
        assert_eq!(steps, vec!["sync the folder"; expected], "made before: {made_before}");
    }
    // A crash before any of them is repaired by the next call, and not forgotten.
    for steps in 0..expected {
        assert!(crash::after(steps, || create_folder(&folder)).0.is_err());
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
    for file in ["file", "file/below"] {
        create_folder(&dir.path().join(file)).unwrap_err();
    }
}

#[test]
fn what_does_not_exist_counts_as_removed() {
    let dir = tempfile::tempdir().unwrap();
    remove(&dir.path().join("none")).unwrap();
    remove_folder(&dir.path().join("none")).unwrap();
    assert_eq!(rename(&dir.path().join("none"), &dir.path().join("x")).unwrap_err().kind(), io::ErrorKind::NotFound);
}
