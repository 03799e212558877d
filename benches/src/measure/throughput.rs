//! How fast the word count counts on one core, with and without checkpoints.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::resource::UsageWho,
    unistd::Pid,
};

use super::{
    Scale,
    interleave::{Contender, interleave, processor_time},
    wordcount::Wordcount,
};
use crate::report::{
    Result,
    data::{Samples, Throughput, median_ratio},
};

const EVERY_MS: u64 = 500;

/// Runs `work` on a thread that has one core; programs that it starts have no other.
fn on_one_core<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pinned = || {
        let this = Pid::from_raw(0);
        let mine = sched_getaffinity(this)?;
        let core = (0..CpuSet::count()).find(|core| mine.is_set(*core).unwrap_or(false)).ok_or("expected a core")?;
        let mut one = CpuSet::new();
        one.set(core)?;
        sched_setaffinity(this, &one)?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(pinned).join()).map_err(|_| "the measuring thread panicked")?
}

/// One run.
struct Figures {
    /// Megabytes per second.
    speed: f64,
    /// Megabytes per second of processor time.
    per_processor: f64,
    checkpoints: f64,
}

/// Runs the whole input through one worker.
fn run(program: &Wordcount, every: &str) -> Result<Figures> {
    let before = processor_time(UsageWho::RUSAGE_CHILDREN)?;
    let arguments = format!("--workers 1 --checkpoint-every {every}");
    let run = on_one_core(|| program.run(&arguments, false))?;
    let processor = processor_time(UsageWho::RUSAGE_CHILDREN)?.saturating_sub(before);
    let number = |name: &str| run.report[name].as_f64().ok_or_else(|| format!("expected `{name}` in the report"));
    if run.report["input_done"] != true {
        return Err("the input was not read to its end".into());
    }
    #[expect(clippy::cast_precision_loss, reason = "of a count far below 2^52")]
    let megabytes = program.input_bytes()? as f64 / 1e6;
    Ok(Figures {
        speed: megabytes / (number("elapsed_ms")? / 1e3),
        per_processor: megabytes / processor.as_secs_f64(),
        checkpoints: number("epoch")?,
    })
}

/// The throughput of the example.
pub(super) fn throughput(scale: Scale) -> Result<Throughput> {
    let program = Wordcount::build()?;
    program.write_input(scale.pick(1 << 20, 200 << 20, 400 << 20))?;
    let (mut checkpoints, mut without, mut with) = (0.0, Vec::new(), Vec::new());
    let mut contenders: [Contender; 2] = [
        Box::new(|| {
            let figures = run(&program, "1h")?;
            without.push(figures.per_processor);
            Ok(figures.speed)
        }),
        Box::new(|| {
            let figures = run(&program, &format!("{EVERY_MS}ms"))?;
            checkpoints = figures.checkpoints;
            with.push(figures.per_processor);
            Ok(figures.speed)
        }),
    ];
    let figures = interleave(scale.pick(1, 3, 5), &mut contenders)?;
    drop(contenders);
    #[expect(clippy::cast_precision_loss, reason = "of a count far below 2^52")]
    let input_mb = program.input_bytes()? as f64 / 1e6;
    Ok(Throughput {
        input_mb,
        cost: 1.0 - median_ratio(&figures[1], &figures[0]),
        without_checkpoints: Samples::of(figures[0].clone()),
        with_checkpoints: Samples::of(figures[1].clone()),
        without_per_processor: Samples::of(without),
        with_per_processor: Samples::of(with),
        every_ms: EVERY_MS,
        checkpoints,
    })
}
