//! An object store in memory that can be stopped between any two operations.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use tokio::sync::oneshot;

use super::super::ObjectStoreCheckpoints;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[derive(Debug)]
pub(super) struct Probe {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// How many more operations take place.
    left: Option<usize>,
    /// The operation that finds none left takes place too, only its answer is lost.
    lose_answer: bool,
    crashed: bool,
    hold: Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>,
}

/// What becomes of one operation.
enum Fate {
    Done,
    DoneUnheard,
    NotDone,
}

/// A put that has been reached and waits.
pub(super) struct Held {
    pub(super) reached: oneshot::Receiver<()>,
    pub(super) go_on: oneshot::Sender<()>,
}

/// A store on `inner`, and the probe in between.
pub(super) fn probed(inner: &Arc<InMemory>) -> (Arc<Probe>, ObjectStoreCheckpoints) {
    let probe = Arc::new(Probe { inner: Arc::clone(inner), state: Arc::default() });
    (Arc::clone(&probe), ObjectStoreCheckpoints::new(probe, "checkpoints"))
}

impl Probe {
    /// From the operation after `operations` more on, everything fails.
    pub(super) fn crash_after(&self, operations: usize) {
        self.state().left = Some(operations);
    }

    /// Like [`crash_after`](Self::crash_after), but the first operation that fails has taken place.
    pub(super) fn crash_after_unheard(&self, operations: usize) {
        self.crash_after(operations);
        self.state().lose_answer = true;
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Holds the next put back.
    pub(super) fn hold_next_put(&self) -> Held {
        let (reached, on_reached) = oneshot::channel();
        let (go_on, on_go_on) = oneshot::channel();
        self.state().hold = Some((reached, on_go_on));
        Held { reached: on_reached, go_on }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fate(state: &Mutex<State>) -> Fate {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut state.left {
        None => Fate::Done,
        Some(0) => {
            let unheard = state.lose_answer && !state.crashed;
            state.crashed = true;
            if unheard { Fate::DoneUnheard } else { Fate::NotDone }
        }
        Some(left) => {
            *left -= 1;
            Fate::Done
        }
    }
}

fn crash() -> Error {
    Error::Generic { store: "Probe", source: "crashed".into() }
}

async fn step<T>(state: &Mutex<State>, operation: impl Future<Output = Result<T>> + Send) -> Result<T> {
    match fate(state) {
        Fate::Done => operation.await,
        Fate::DoneUnheard => {
            let _ = operation.await;
            Err(crash())
        }
        Fate::NotDone => Err(crash()),
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl ObjectStore for Probe {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Boxed<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async move {
            let hold = self.state().hold.take();
            if let Some((reached, go_on)) = hold {
                let _ = reached.send(());
                let _ = go_on.await;
            }
            step(&self.state, self.inner.put_opts(location, payload, options)).await
        })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: PutMultipartOptions,
    ) -> Boxed<'c, Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
    {
        self.inner.put_multipart_opts(location, options)
    }

    fn get_opts<'a, 'b, 'c>(&'a self, location: &'b Path, options: GetOptions) -> Boxed<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(step(&self.state, self.inner.get_opts(location, options)))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, state) = (Arc::clone(&self.inner), Arc::clone(&self.state));
        locations
            .then(move |location| {
                let (inner, state) = (Arc::clone(&inner), Arc::clone(&state));
                async move {
                    let location = location?;
                    step(&state, object_store::ObjectStoreExt::delete(&*inner, &location)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> Boxed<'c, Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(step(&self.state, self.inner.list_with_delimiter(prefix)))
    }

    fn copy_opts<'a, 'b, 'd, 'c>(&'a self, from: &'b Path, to: &'d Path, options: CopyOptions) -> Boxed<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
    {
        self.inner.copy_opts(from, to, options)
    }
}
