//! The cost of one transition: ours, that of a hand-written enum, and that of a boxed state. A
//! job's walk has two.

use std::{
    hint::black_box,
    mem,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::watch;
use winddown::{Force, JobId, Progress, Running, Stopping};

use super::{
    Scale, callgrind,
    interleave::{Contender, interleave, nanos_each},
    jobs::{self, Job},
    transition_ways::{self, Context, Phase, State, WALK, running},
};
use crate::report::{
    Result,
    data::{Samples, TransitionRow, Transitions},
};

/// Jobs that are made before the clock runs.
const BATCH: usize = 1000;

/// One way to write the machine: jobs are made, then walked.
trait Way {
    /// For people, and for the command line of a probe.
    const NAME: &'static str;
    const TAG: &'static str;
    type Job;

    fn make(number: u64) -> Result<Self::Job>;
    /// In place: a job is not moved in memory for a transition.
    fn walk(job: &mut Self::Job) -> Result<()>;
}

/// Typed phases; `WATCHED` by somebody who wants to know how far the job is.
struct Typed<const WATCHED: bool>;

/// Where a typed job is: before its walk, or behind it.
enum Walked {
    Before(Running),
    Behind {
        /// Dropped with the job, as the other ways' phases are.
        _phase: Stopping<Force>,
    },
    OnTheWay,
}

impl<const WATCHED: bool> Way for Typed<WATCHED> {
    const NAME: &'static str = if WATCHED { "typed phases (winddown), watched" } else { "typed phases (winddown)" };
    const TAG: &'static str = if WATCHED { "typed-watched" } else { "typed" };
    type Job = (Job, Walked, Option<watch::Receiver<Progress>>);

    fn make(number: u64) -> Result<Self::Job> {
        let (job, running) = jobs::job(&JobId::from("bench"), number);
        let watcher = WATCHED.then(|| job.progress());
        Ok((job, Walked::Before(running), watcher))
    }

    fn walk((job, phase, _): &mut Self::Job) -> Result<()> {
        let Walked::Before(running) = mem::replace(phase, Walked::OnTheWay) else {
            return Err("it has been walked".into());
        };
        let finishing = running.finish(job)?;
        *phase = Walked::Behind { _phase: finishing.force(job)? };
        Ok(())
    }
}

struct Matched<const WATCHED: bool>;

impl<const WATCHED: bool> Way for Matched<WATCHED> {
    const NAME: &'static str =
        if WATCHED { "a hand-written enum with `match`, watched" } else { "a hand-written enum with `match`" };
    const TAG: &'static str = if WATCHED { "enum-watched" } else { "enum" };
    type Job = (Context, Phase, Option<watch::Receiver<transition_ways::Progress>>);

    fn make(number: u64) -> Result<Self::Job> {
        let context = Context::new("bench", number);
        let watcher = WATCHED.then(|| context.watch());
        Ok((context, Phase::Running, watcher))
    }

    fn walk((context, phase, _): &mut Self::Job) -> Result<()> {
        for signal in black_box(WALK) {
            *phase = phase.step(signal, context)?;
        }
        Ok(())
    }
}

struct Boxed;

impl Way for Boxed {
    const NAME: &'static str = "`Box<dyn State>` with `async_trait`";
    const TAG: &'static str = "boxed";
    type Job = (Context, Option<Box<dyn State>>);

    fn make(number: u64) -> Result<Self::Job> {
        Ok((Context::new("bench", number), Some(running())))
    }

    fn walk((context, place): &mut Self::Job) -> Result<()> {
        for signal in black_box(WALK) {
            let state = place.take().ok_or("it has failed before")?;
            // No state waits for anything, so each is ready at once.
            *place = Some(state.next(signal, context).now_or_never().ok_or("a state waits")??);
        }
        Ok(())
    }
}

/// Nanoseconds of one transition.
fn timed<W: Way>() -> Result<f64> {
    let mut jobs = Vec::with_capacity(BATCH);
    for number in 0..BATCH as u64 {
        jobs.push(W::make(number)?);
    }
    let start = Instant::now();
    walk_all::<W>(&mut jobs)?;
    let took: Duration = start.elapsed();
    drop(black_box(jobs));
    Ok(nanos_each(took, BATCH * WALK.len()))
}

/// Never inlined: callgrind finds it by its name.
#[inline(never)]
fn walk_all<W: Way>(jobs: &mut [W::Job]) -> Result<()> {
    jobs.iter_mut().try_for_each(W::walk)
}

fn row<W: Way>(ns: Vec<f64>, scale: Scale) -> Result<TransitionRow> {
    let mut job = W::make(0)?;
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| outcome = W::walk(&mut job));
    outcome?;
    let steps = u32::try_from(WALK.len())?;
    let instructions = if scale == Scale::Smoke {
        None
    } else {
        let walk = callgrind::instructions(&format!("walk-{}", W::TAG), BATCH, "walk_all")?;
        walk.map(|walk| walk / f64::from(steps))
    };
    #[expect(clippy::cast_precision_loss, reason = "of a small count")]
    let allocations = counted.count_total as f64 / f64::from(steps);
    Ok(TransitionRow { way: W::NAME.to_owned(), ns: Samples::of(ns), allocations, instructions })
}

/// Item 4.
pub(super) fn transitions(scale: Scale) -> Result<Transitions> {
    let mut contenders: [Contender; 5] = [
        Box::new(timed::<Typed<false>>),
        Box::new(timed::<Matched<false>>),
        Box::new(timed::<Boxed>),
        Box::new(timed::<Typed<true>>),
        Box::new(timed::<Matched<true>>),
    ];
    let mut figures = interleave(scale.pick(2, 21, 101), &mut contenders)?.into_iter();
    let mut next = || figures.next().unwrap_or_default();
    let rows = vec![
        row::<Typed<false>>(next(), scale)?,
        row::<Matched<false>>(next(), scale)?,
        row::<Boxed>(next(), scale)?,
        row::<Typed<true>>(next(), scale)?,
        row::<Matched<true>>(next(), scale)?,
    ];
    Ok(Transitions { rows })
}

/// Walks so many jobs.
pub(super) fn probe(what: &str, times: usize) -> Result<bool> {
    fn go<W: Way>(times: usize) -> Result<bool> {
        let mut jobs = (0..times as u64).map(W::make).collect::<Result<Vec<_>>>()?;
        walk_all::<W>(&mut jobs)?;
        drop(black_box(jobs));
        Ok(true)
    }
    match what.strip_prefix("walk-") {
        Some("typed") => go::<Typed<false>>(times),
        Some("typed-watched") => go::<Typed<true>>(times),
        Some("enum") => go::<Matched<false>>(times),
        Some("enum-watched") => go::<Matched<true>>(times),
        Some("boxed") => go::<Boxed>(times),
        _ => Ok(false),
    }
}
