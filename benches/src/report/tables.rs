//! The figures as tables.

use std::fmt::Write as _;

use super::{
    data::{Circumstances, Measured, Report, Samples},
    goals::{number, number_of},
};

/// The tables of a section, by its name on the command line.
pub fn section(name: &str, report: &Report) -> String {
    let table = match name {
        "fan-out" => report.fan_out.as_ref().map(fan_out),
        "sick-worker" => report.sick_worker.as_ref().map(sick_worker),
        "messages" => report.messages.as_ref().map(messages),
        "transitions" => report.transitions.as_ref().map(transitions),
        "backlog" => report.backlog.as_ref().map(backlog),
        "memory" => report.memory.as_ref().map(memory),
        "shutdown" => report.shutdown.as_ref().map(shutdown),
        "throughput" => report.throughput.as_ref().map(throughput),
        "builds" => report.builds.as_ref().map(builds),
        _ => None,
    };
    table.unwrap_or_else(|| "Not measured yet.\n".to_owned())
}

fn with<T>(measured: &Measured<T>, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = format!("{}\n\n| {} |\n|{}\n", when(&measured.run), head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        // Writing to a string can't fail.
        let _ = writeln!(table, "| {} |", row.join(" | "));
    }
    table
}

fn when(run: &Circumstances) -> String {
    let noisy = if run.load_before > f64::from(u32::try_from(run.cores).unwrap_or(u32::MAX)) {
        ": **the machine was busy, times are noisy**"
    } else {
        ""
    };
    let (scale, seconds, load) = (&run.scale, run.seconds, run.load_before);
    format!("Measured {} ({scale}, {seconds:.0} s), load {load:.1} before it{noisy}.", run.date)
}

/// Milliseconds, from microseconds.
fn ms(us: f64) -> String {
    number(us / 1e3)
}

fn ms_of(samples: &Samples) -> String {
    format!("{} ({})", ms(samples.median), ms(samples.least))
}

fn us_of(samples: &Samples) -> String {
    format!("{} ({})", number(samples.median), number(samples.least))
}

fn optional(figure: Option<f64>) -> String {
    figure.map_or_else(|| "not measured: no valgrind".to_owned(), number)
}

fn fan_out(it: &Measured<super::data::FanOut>) -> String {
    let head = [
        "workers",
        "handler",
        "floor, ms",
        "winddown, ms",
        "`join_all`, ms",
        "one after the other, ms",
        "winddown / floor",
        "winddown / `join_all`",
        "faster than one after the other",
        "processor, ms",
        "processor of `join_all`, ms",
        "first order, ms",
    ];
    let rows = it.result.rows.iter().map(|row| {
        vec![
            number_of(row.workers),
            format!("{} ms", row.handler_ms),
            ms_of(&row.floor),
            ms_of(&row.ours),
            ms_of(&row.join_all),
            ms_of(&row.sequential),
            format!("{:.2} ×", row.over_floor),
            format!("{:.2} ×", row.over_join_all),
            format!("{} ×", number(row.sequential.median / row.ours.median)),
            ms_of(&row.ours_processor),
            ms_of(&row.join_all_processor),
            ms(row.first),
        ]
    });
    with(it, &head, rows)
}

fn sick_worker(it: &Measured<super::data::SickWorker>) -> String {
    let (result, limit) = (&it.result, it.result.sequential_limit_ms);
    let row = |what: String, samples: &Samples| {
        vec![what, ms_of(samples), format!("{:.2} ×", samples.median / result.healthy.median)]
    };
    let rows = [
        row("winddown, all healthy".to_owned(), &result.healthy),
        row("winddown, one never answers".to_owned(), &result.sick),
        row(format!("one after the other, one never answers, {limit} ms per call"), &result.sequential),
    ];
    let head = [
        &format!("{} workers", number_of(result.workers)),
        "last arrival at the others, ms",
        "compared with all healthy",
    ];
    let table = with(it, &head, rows);
    format!("{table}\nMedian of the ratios of neighbouring repetitions: {:.3} ×.\n", result.ratio)
}

fn messages(it: &Measured<super::data::Messages>) -> String {
    let head = ["message", "tasks", "winddown, ns", "scan, ns", "allocations", "instructions"];
    let rows = it.result.rows.iter().map(|row| {
        vec![
            row.message.clone(),
            number_of(row.tasks),
            us_of(&row.ours_ns),
            row.scan_ns.as_ref().map_or_else(|| "–".to_owned(), us_of),
            number(row.allocations),
            optional(row.instructions),
        ]
    });
    with(it, &head, rows)
}

fn transitions(it: &Measured<super::data::Transitions>) -> String {
    let rows = it
        .result
        .rows
        .iter()
        .map(|row| vec![row.way.clone(), us_of(&row.ns), number(row.allocations), optional(row.instructions)]);
    with(it, &["way", "one transition, ns", "allocations", "instructions"], rows)
}

fn backlog(it: &Measured<super::data::Backlog>) -> String {
    let head =
        ["backlog", "winddown, µs", "messages read before", "one shared channel, µs", "messages read before, shared"];
    let rows = it.result.rows.iter().map(|row| {
        vec![
            number_of(row.backlog),
            us_of(&row.ours),
            row.read_before.to_string(),
            us_of(&row.shared_channel),
            row.shared_read_before.to_string(),
        ]
    });
    with(it, &head, rows)
}

fn memory(it: &Measured<super::data::Memory>) -> String {
    let result = &it.result;
    let head = ["phase", "the machine's own share", "while it is driven", "with the embedded cluster", "over gRPC"];
    let rows = result.rows.iter().map(|row| {
        let bytes = [row.at_rest, row.machine, row.embedded, row.grpc].map(|bytes| number(bytes.round()));
        let mut cells = vec![format!("`{}`", row.phase)];
        cells.extend(bytes);
        cells
    });
    let mut text = with(it, &head, rows);
    let (jobs, grpc_jobs) = (number_of(result.jobs), number_of(result.grpc_jobs));
    let _ =
        writeln!(text, "\nMeasured with {jobs} jobs; over gRPC with {grpc_jobs}, because each needs two open files.");
    text += "\n| future | bytes |\n|---|---|\n";
    for (name, size) in &result.futures {
        let _ = writeln!(text, "| `{name}` | {} |", number_of(*size));
    }
    let at_once = &result.at_once;
    let _ = writeln!(
        text,
        "\n{} embedded jobs in one process, all asked to stop at the same time: all had stopped after {:.2} s on one thread, \
         with at most {} bytes per job in use, including workers and tasks.",
        number_of(at_once.jobs),
        at_once.seconds,
        number(at_once.peak_bytes_per_job.round())
    );
    text
}

fn shutdown(it: &Measured<super::data::Shutdown>) -> String {
    let head = [
        "workers",
        "floor, ms",
        "total, ms",
        "checkpoint, ms",
        "commit, ms",
        "finish, ms",
        "release, ms",
        "tasks' own, ms",
        "ours, ms",
    ];
    let rows = it.result.rows.iter().map(|row| {
        let parts =
            [&row.floor, &row.total, &row.checkpoint, &row.commit, &row.finish, &row.release, &row.tasks, &row.ours];
        let mut cells = vec![format!("{} {}", row.workers, row.runtime)];
        cells.extend(parts.map(ms_of));
        cells
    });
    with(it, &head, rows)
}

fn throughput(it: &Measured<super::data::Throughput>) -> String {
    let result = &it.result;
    let rows = [
        ("no checkpoints", &result.without_checkpoints, &result.without_per_processor),
        ("checkpoints every 500 ms", &result.with_checkpoints, &result.with_per_processor),
    ];
    let rows = rows.map(|(what, speed, per_processor)| {
        vec![what.to_owned(), number(speed.median), number(speed.least), number(per_processor.median)]
    });
    let head = ["one worker on one core", "MB/s, median", "MB/s, least", "MB per second of processor time"];
    let table = with(it, &head, rows);
    format!(
        "{table}\n{:.0} MB of text, {} checkpoints per run; they cost {:.1} % of the time (median of neighbouring repetitions), and \
         {:.1} % of the processor time.\n",
        result.input_mb,
        number(result.checkpoints),
        result.cost * 100.0,
        (1.0 - result.with_per_processor.median / result.without_per_processor.median) * 100.0
    )
}

fn builds(it: &Measured<super::data::Builds>) -> String {
    let rows = it.result.rows.iter().map(|row| {
        let seconds = |time: f64| format!("{time:.1} s");
        let incremental = row.incremental_s.map_or_else(|| "–".to_owned(), seconds);
        vec![row.what.clone(), number_of(row.crates), seconds(row.cold_s), incremental]
    });
    with(it, &["what is built", "crates", "clean build", "after a change in it"], rows)
}
