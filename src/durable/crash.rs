//! For tests: stops the world before the n-th change of the disk that a thread makes.

use std::{
    cell::{Cell, RefCell},
    io,
};

thread_local! {
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    static DONE: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn step(what: &'static str) -> io::Result<()> {
    match LEFT.get() {
        None => return Ok(()),
        Some(0) => return Err(io::Error::other("crash")),
        Some(more) => LEFT.set(Some(more - 1)),
    }
    DONE.with_borrow_mut(|done| done.push(what));
    Ok(())
}

/// Runs `work` in a world that ends after `steps` changes of the disk, and returns its result and
/// the changes that took place. From then on every function of [`durable`](super) fails on this
/// thread, until `work` returns.
///
/// Call it with 0, 1, 2, … until the result is `Ok`, and look each time at what is on disk.
///
/// ```
/// use winddown::durable::{self, crash};
///
/// # fn main() -> std::io::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// let file = folder.path().join("file");
/// durable::replace(&file, b"old")?;
/// for steps in 0.. {
///     let (result, _) = crash::after(steps, || durable::replace(&file, b"new"));
///     let found = std::fs::read(&file)?;
///     assert!(found == b"old" || found == b"new");
///     if result.is_ok() {
///         break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub fn after<T>(steps: usize, work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    LEFT.set(Some(steps));
    DONE.take();
    let result = work();
    LEFT.set(None);
    (result, DONE.take())
}
