//! What one transition costs: ours, a hand-written enum's, a boxed state's. A job's walk has three of them.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use winddown::{Force, JobId, Running, Stopping};

use super::{
    Scale, callgrind,
    interleave::{Contender, interleave, nanos_each},
    jobs::{self, Job},
    transition_ways::{Context, Phase, State, WALK, running},
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
    fn walk(job: Self::Job) -> Result<Self::Job>;
}

/// Typed phases.
struct Typed;

/// Where a typed job is: before its walk, or behind it.
enum Walked {
    Before(Running),
    Behind {
        /// Dropped with the job, as the other ways' phases are.
        _phase: Stopping<Force>,
    },
}

impl Way for Typed {
    const NAME: &'static str = "typed phases (winddown)";
    const TAG: &'static str = "typed";
    type Job = (Job, Walked);

    fn make(number: u64) -> Result<Self::Job> {
        let (job, running) = jobs::job(&JobId::from("bench"), number);
        Ok((job, Walked::Before(running)))
    }

    fn walk((mut job, phase): Self::Job) -> Result<Self::Job> {
        let Walked::Before(running) = phase else { return Err("it has been walked".into()) };
        let finishing = running.finish(&mut job)?;
        let stopping = finishing.give_up(&mut job)?;
        let killing = stopping.escalate::<Force, _, _>(&mut job)?;
        Ok((job, Walked::Behind { _phase: killing }))
    }
}

struct Matched;

impl Way for Matched {
    const NAME: &'static str = "a hand-written enum with `match`";
    const TAG: &'static str = "enum";
    type Job = (Context, Phase);

    fn make(number: u64) -> Result<Self::Job> {
        Ok((Context::new("bench", number), Phase::Running))
    }

    fn walk((mut context, mut phase): Self::Job) -> Result<Self::Job> {
        for signal in black_box(WALK) {
            phase = phase.step(signal, &mut context)?;
        }
        Ok((context, phase))
    }
}

struct Boxed;

impl Way for Boxed {
    const NAME: &'static str = "`Box<dyn State>` with `async_trait`";
    const TAG: &'static str = "boxed";
    type Job = (Context, Box<dyn State>);

    fn make(number: u64) -> Result<Self::Job> {
        Ok((Context::new("bench", number), running()))
    }

    fn walk((mut context, mut state): Self::Job) -> Result<Self::Job> {
        for signal in black_box(WALK) {
            // No state waits for anything, so each is ready at once.
            state = state.next(signal, &mut context).now_or_never().ok_or("a state waits")??;
        }
        Ok((context, state))
    }
}

/// Nanoseconds of one transition.
fn timed<W: Way>() -> Result<f64> {
    let mut jobs = Vec::with_capacity(BATCH);
    for number in 0..BATCH as u64 {
        jobs.push(W::make(number)?);
    }
    let start = Instant::now();
    let jobs = walk_all::<W>(jobs)?;
    let took: Duration = start.elapsed();
    drop(black_box(jobs));
    Ok(nanos_each(took, BATCH * WALK.len()))
}

/// Never inlined: callgrind finds it by its name.
#[inline(never)]
fn walk_all<W: Way>(jobs: Vec<W::Job>) -> Result<Vec<W::Job>> {
    let mut ended = Vec::with_capacity(jobs.len());
    for job in jobs {
        ended.push(W::walk(job)?);
    }
    Ok(ended)
}

fn row<W: Way>(ns: Vec<f64>, scale: Scale) -> Result<TransitionRow> {
    let job = W::make(0)?;
    let mut ended = None;
    let counted = allocation_counter::measure(|| ended = Some(W::walk(job)));
    ended.ok_or("it was not walked")??;
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
    let mut contenders: [Contender; 3] =
        [Box::new(timed::<Typed>), Box::new(timed::<Matched>), Box::new(timed::<Boxed>)];
    let mut figures = interleave(scale.pick(2, 21, 101), &mut contenders)?.into_iter();
    let mut next = || figures.next().unwrap_or_default();
    Ok(Transitions {
        rows: vec![row::<Typed>(next(), scale)?, row::<Matched>(next(), scale)?, row::<Boxed>(next(), scale)?],
    })
}

/// Walks so many jobs.
pub(super) fn probe(what: &str, times: usize) -> Result<bool> {
    fn go<W: Way>(times: usize) -> Result<bool> {
        let jobs = (0..times as u64).map(W::make).collect::<Result<_>>()?;
        drop(black_box(walk_all::<W>(jobs)?));
        Ok(true)
    }
    match what.strip_prefix("walk-") {
        Some(Typed::TAG) => go::<Typed>(times),
        Some(Matched::TAG) => go::<Matched>(times),
        Some(Boxed::TAG) => go::<Boxed>(times),
        _ => Ok(false),
    }
}
