//! The command `stop`.

use std::{pin::pin, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use winddown::{
    JobContext, Limits, Receipt, StopRequest,
    drive::{Policy, drive},
    machine::Progress,
};
use winddown_flink::{AttachError, FlinkController, FlinkJob, FlinkScheduler, RestClient, RestError, View};

use crate::{
    ladder,
    options::{OnSpent, StopOptions},
    outcome::{Exit, Outcome, judge, say_error},
};

/// A time that no stop reaches, and no clock overflows at.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(crate) async fn stop(options: StopOptions) -> Exit {
    let client = match options.cluster.settings().and_then(|it| Ok(RestClient::new(it)?)) {
        Ok(client) => client,
        Err(error) => return say_error(Exit::Usage, &*error, options.json),
    };
    let flink = match attach(&client, &options).await {
        Ok(flink) => flink,
        Err(error) => {
            let exit = match &error {
                AttachError::NoId { .. } => Exit::Usage,
                AttachError::Rest(RestError::NotFound { .. }) => Exit::NoJob,
                _ => Exit::Unknown,
            };
            return say_error(exit, &error, options.json);
        }
    };
    match stop_job(&flink, &options).await {
        Ok(exit) => exit,
        Err(error) => say_error(Exit::Unknown, &*error, options.json),
    }
}

/// A `JobManager` that is away has the deadline to come back.
async fn attach(client: &RestClient, options: &StopOptions) -> Result<FlinkJob, AttachError> {
    let until = Instant::now() + options.deadline.min(NEVER);
    loop {
        match FlinkJob::attach(client, &options.job).await {
            Err(AttachError::Rest(error)) if error.is_retryable() && Instant::now() < until => {
                if !options.quiet {
                    eprintln!("{error}; trying again");
                }
                sleep(Duration::from_secs(1)).await;
            }
            other => return other,
        }
    }
}

fn limits(options: &StopOptions) -> Limits {
    let deadline = options.deadline.min(NEVER);
    Limits {
        final_checkpoint: deadline,
        // A graceful stop that is late goes on to force, and nothing else. The caller's choice is
        // made outside of it.
        finish: if is_held(options) { NEVER } else { deadline },
        // A TaskManager is heard again within its heartbeat's interval, or dropped after its
        // timeout: 10 s and 50 s.
        release: Duration::from_secs(70),
        kill: Duration::from_secs(70),
        verify_every: Duration::from_millis(250),
        scheduler_retries: 3,
        backoff_max: Duration::from_secs(10),
        ..Limits::default()
    }
}

/// Whether a drain that fails leaves the job as it is.
fn is_held(options: &StopOptions) -> bool {
    options.on_spent != OnSpent::Escalate && StopRequest::from(options.mode) == StopRequest::Graceful
}

async fn stop_job(flink: &FlinkJob, options: &StopOptions) -> Result<Exit, Box<dyn std::error::Error>> {
    let mut controller = FlinkController::builder(flink);
    if let Some(savepoints) = &options.savepoints {
        controller = controller.savepoints(savepoints.as_str());
    }
    for mount in &options.mounts {
        controller = controller.mount(mount.clone());
    }
    if is_held(options) {
        controller = controller.hold_failed_drain();
    }
    let controller = controller.build();
    let view = controller.watch();
    let scheduler = FlinkScheduler::new(flink);
    let (mut job, running) = JobContext::builder(&flink.open()).limits(limits(options)).build(controller, scheduler)?;
    let asked = StopRequest::from(options.mode);
    let sender = job.sender();
    ladder::climb(sender.clone())?;
    sender.request(asked)?;
    let shown = (!options.quiet).then(|| tokio::spawn(show(view.clone(), job.progress())));
    let ended = {
        let policy = Policy::from(options.on_spent);
        let driven = pin!(drive(running, &mut job, &policy));
        tokio::select! {
            biased;
            driven = driven => driven.map_err(|error| error.to_string()),
            why = given_up(view.clone(), options, || sender.requested()), if is_held(options) => Err(why),
        }
    };
    if let Some(shown) = shown {
        shown.abort();
    }
    Ok(tell(flink, asked, ended, &view, options.json).await)
}

/// The end of a graceful stop that leaves the job as it is. A stronger stop that was asked for
/// meanwhile is not given up.
async fn given_up(
    mut view: watch::Receiver<View>,
    options: &StopOptions,
    asked: impl Fn() -> Option<StopRequest>,
) -> String {
    let late = Instant::now() + if options.on_spent == OnSpent::Keep { NEVER } else { options.deadline.min(NEVER) };
    let failed = async {
        match view.wait_for(|view| view.failed_order.is_some()).await {
            Ok(view) => view.failed_order.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    };
    let why = tokio::select! {
        why = failed => format!("the drain failed: {why}"),
        () = sleep_until(late) => "the drain has not ended in time; its order stands, so the job may still stop".into(),
    };
    if asked() > Some(StopRequest::Graceful) {
        std::future::pending::<()>().await;
    }
    why
}

async fn tell(
    flink: &FlinkJob,
    asked: StopRequest,
    ended: Result<Receipt, String>,
    view: &watch::Receiver<View>,
    json: bool,
) -> Exit {
    let (exit, receipt, error) = match ended {
        Ok(receipt) => (judge(asked, receipt.stopped()), Some(receipt), None),
        Err(error) => {
            let (exit, error) = match flink.state().await {
                Ok(state) if state.is_globally_terminal() => (Exit::Weaker, error),
                Ok(_) => (Exit::NotStopped, error),
                Err(unknown) => (Exit::Unknown, format!("{error}; {unknown}")),
            };
            (exit, None, Some(error))
        }
    };
    let mut view = view.borrow().clone();
    let error = error.map(|error| match &view.failed_order {
        Some(why) if !error.contains(why.as_str()) => format!("{error}; the last order failed: {why}"),
        _ => error,
    });
    if let Ok(state) = flink.state().await {
        view.state = Some(state);
    }
    let outcome = Outcome {
        exit,
        code: exit as u8,
        job: flink.id(),
        name: flink.name(),
        asked,
        savepoint: view.savepoint.as_deref(),
        receipt: receipt.as_ref().map(Receipt::report),
        error,
        flink: &view,
    };
    outcome.say(receipt.as_ref(), json)
}

/// Prints what changes.
async fn show(mut view: watch::Receiver<View>, mut progress: watch::Receiver<Progress>) {
    let start = Instant::now();
    let mut said = String::new();
    loop {
        let now = line(&view.borrow_and_update(), &progress.borrow_and_update());
        if now != said {
            eprintln!("{:>7.1} s  {now}", start.elapsed().as_secs_f64());
            said = now;
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            changed = progress.changed() => if changed.is_err() { return },
        }
    }
}

fn line(view: &View, progress: &Progress) -> String {
    let state = view.state.map_or_else(|| "?".to_owned(), |state| state.to_string());
    let mut parts = vec![progress.phase.to_string(), state];
    parts.extend(view.vertices.iter().map(ToString::to_string));
    parts.extend(progress.alive.filter(|&alive| alive > 0).map(|alive| format!("TaskManagers: {alive}")));
    parts.extend(view.trouble.iter().map(|trouble| trouble.said.clone()));
    parts.join("  ")
}
