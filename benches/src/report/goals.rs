//! The goals, each with its figure. Whether one is met is computed, and by how much it is not.

use std::fmt::Write as _;

use super::data::{DEFAULTS, FIRST_COMMAND, FanOutRow, MessageRow, NO_DEFAULTS, Report};

/// One goal.
pub struct Goal {
    pub item: &'static str,
    pub text: &'static str,
    /// Absent where it was not measured, or not at the size that the goal speaks of.
    pub figure: Option<f64>,
    pub unit: &'static str,
    pub bound: Bound,
    /// Which of several figures it is.
    pub of: String,
}

/// What the figure must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    pub fn is_met(&self) -> Option<bool> {
        let figure = self.figure?;
        Some(match self.bound {
            Bound::AtMost(limit) => figure <= limit,
            Bound::AtLeast(limit) => figure >= limit,
        })
    }

    fn verdict(&self) -> String {
        let (Some(figure), Some(met)) = (self.figure, self.is_met()) else { return "not measured".to_owned() };
        if met {
            return "met".to_owned();
        }
        match self.bound {
            Bound::AtMost(limit) if limit > 0.0 => format!("**missed**: {:.0} % above", (figure / limit - 1.0) * 100.0),
            Bound::AtMost(_) => "**missed**".to_owned(),
            Bound::AtLeast(limit) => format!("**missed**: {:.0} % below", (1.0 - figure / limit) * 100.0),
        }
    }
}

/// Every goal, in the order of the page.
pub fn goals(report: &Report) -> Vec<Goal> {
    let mut all = orders(report);
    all.extend(messages(report));
    all.extend(transitions(report));
    all.extend(backlog(report));
    all.extend(memory(report));
    all.extend(whole(report));
    all.extend(builds(report));
    all
}

/// The table of goals.
pub fn table(report: &Report) -> String {
    let mut table = "| goal | must be | is | |\n|---|---|---|---|\n".to_owned();
    for goal in goals(report) {
        let bound = match goal.bound {
            Bound::AtMost(limit) => format!("≤ {}", number(limit)),
            Bound::AtLeast(limit) => format!("≥ {}", number(limit)),
        };
        let figure = goal.figure.map_or_else(|| "–".to_owned(), |figure| number(figure) + " " + goal.unit);
        let of = if goal.of.is_empty() { String::new() } else { format!(" ({})", goal.of) };
        // Writing to a string can't fail.
        let _ = writeln!(
            table,
            "| {}: {} | {bound} {} | {}{of} | {} |",
            goal.item,
            goal.text,
            goal.unit,
            figure.trim(),
            goal.verdict()
        );
    }
    table
}

/// Three digits that matter.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 && size % 1e5 == 0.0 {
        format!("{} million", value / 1e6)
    } else if size >= 1e6 {
        format!("{:.1} million", value / 1e6)
    } else if size >= 100.0 || value.fract() == 0.0 {
        thousands(value)
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// A whole number with a comma before each three digits.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn orders(report: &Report) -> Vec<Goal> {
    let fan_out = report.fan_out.as_ref().map(|it| &it.result);
    let row = fan_out.and_then(|it| it.rows.iter().find(|row| (row.workers, row.handler_ms) == (1000, 50)));
    let faster = |row: &FanOutRow| row.sequential.median / row.ours.median;
    let sick = report.sick_worker.as_ref().map(|it| &it.result).filter(|it| it.workers == 1000);
    vec![
        Goal {
            item: "Stop order",
            text: "1,000 workers, handlers of 50 ms, compared with the floor (the slowest handler and one round trip)",
            figure: row.map(|row| row.over_floor),
            unit: "×",
            bound: Bound::AtMost(1.3),
            of: String::new(),
        },
        Goal {
            item: "Stop order",
            text: "the same, speed-up over one after the other",
            figure: row.map(faster),
            unit: "×",
            bound: Bound::AtLeast(100.0),
            of: String::new(),
        },
        Goal {
            item: "Sick worker",
            text: "arrival of the order at the other 999, compared with no sick worker",
            figure: sick.map(|it| it.ratio),
            unit: "×",
            bound: Bound::AtMost(1.1),
            of: String::new(),
        },
    ]
}

fn messages(report: &Report) -> Vec<Goal> {
    let rows = report.messages.as_ref().map_or(&[][..], |it| &it.result.rows);
    let small_of = |row: &MessageRow| rows.iter().find(|it| it.tasks == 1000 && it.message == row.message);
    let largest = || rows.iter().filter(|row| row.tasks == 1_000_000);
    // The figure that grows most: of those with messages in task order, or of those in random
    // order.
    let growth = |random: bool| {
        let of_order = largest().filter(|row| row.message.ends_with("at random") == random);
        let growths =
            of_order.filter_map(|row| Some((row.ours_ns.median / small_of(row)?.ours_ns.median, row.message.clone())));
        growths.max_by(|one, other| one.0.total_cmp(&other.0)).unzip()
    };
    let ((in_turn, of_turn), (random, of_random)) = (growth(false), growth(true));
    let instructions = largest().filter_map(|row| Some(row.instructions? / small_of(row)?.instructions?));
    let slowest = rows.iter().max_by(|one, other| one.ours_ns.median.total_cmp(&other.ours_ns.median));
    let of = |row: &MessageRow| format!("{}, {} tasks", row.message, number_of(row.tasks));
    let goal = |text, figure, unit, bound, of: Option<String>| Goal {
        item: "Worker message",
        text,
        figure,
        unit,
        bound,
        of: of.unwrap_or_default(),
    };
    vec![
        goal("cost at 1,000,000 tasks compared with 1,000, tasks in turn", in_turn, "×", Bound::AtMost(1.5), of_turn),
        goal("the same, tasks at random", random, "×", Bound::AtMost(1.5), of_random),
        goal("the same in instructions", instructions.max_by(f64::total_cmp), "×", Bound::AtMost(1.5), None),
        goal(
            "messages per second on one core",
            slowest.map(|row| 1e9 / row.ours_ns.median),
            "",
            Bound::AtLeast(5e6),
            slowest.map(of),
        ),
        goal(
            "allocations per message",
            rows.iter().map(|row| row.allocations).max_by(f64::total_cmp),
            "",
            Bound::AtMost(0.0),
            None,
        ),
    ]
}

fn transitions(report: &Report) -> Vec<Goal> {
    let rows = report.transitions.as_ref().map_or(&[][..], |it| &it.result.rows);
    // Like with like: both watched, or neither. The pair that is worse for ours counts.
    let pairs = [(rows.first(), rows.get(1)), (rows.get(3), rows.get(4))].into_iter();
    let pairs = pairs.filter_map(|(typed, matched)| typed?.instructions.zip(matched?.instructions));
    let instructions = pairs.max_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    let allocations = rows.iter().filter(|row| row.way.starts_with("typed")).map(|row| row.allocations);
    vec![
        Goal {
            item: "Transition",
            text: "allocations",
            figure: allocations.max_by(f64::total_cmp),
            unit: "",
            bound: Bound::AtMost(0.0),
            of: String::new(),
        },
        Goal {
            item: "Transition",
            text: "instructions compared with a hand-written enum",
            figure: instructions.map(|(typed, matched)| typed / matched),
            unit: "×",
            bound: Bound::AtMost(1.0),
            of: instructions
                .map(|(typed, matched)| format!("{} and {}", number(typed.round()), number(matched.round())))
                .unwrap_or_default(),
        },
    ]
}

/// A difference of less than this is the scheduler's and not the backlog's.
const SAME_US: f64 = 50.0;

fn backlog(report: &Report) -> Vec<Goal> {
    let rows = report.backlog.as_ref().map_or(&[][..], |it| &it.result.rows);
    let ends = rows.first().zip(rows.iter().find(|row| row.backlog == 1_000_000));
    #[expect(clippy::cast_precision_loss, reason = "of a small count")]
    let read = rows.iter().map(|row| row.read_before).max().map(|read| read as f64);
    vec![
        Goal {
            item: "Request behind a backlog",
            text: "messages read between the request and its effect, besides the one in hand",
            figure: read,
            unit: "",
            bound: Bound::AtMost(0.0),
            of: String::new(),
        },
        Goal {
            item: "Request behind a backlog",
            text: "latency behind 1,000,000 messages minus that behind none",
            figure: ends.map(|(none, most)| (most.ours.median - none.ours.median).max(0.0)),
            unit: "µs",
            bound: Bound::AtMost(SAME_US),
            of: String::new(),
        },
    ]
}

fn memory(report: &Report) -> Vec<Goal> {
    let memory = report.memory.as_ref().map(|it| &it.result);
    let largest = memory.and_then(|it| it.rows.iter().max_by(|one, other| one.at_rest.total_cmp(&other.at_rest)));
    let future = memory.and_then(|it| it.futures.iter().max_by_key(|(_, size)| **size));
    #[expect(clippy::cast_precision_loss, reason = "of a small count")]
    let size = future.map(|(_, size)| *size as f64);
    vec![
        Goal {
            item: "Memory",
            text: "the machine's own share of a job",
            figure: largest.map(|row| row.at_rest),
            unit: "bytes",
            bound: Bound::AtMost(1024.0),
            of: largest.map(|row| format!("`{}`", row.phase)).unwrap_or_default(),
        },
        Goal {
            item: "Memory",
            text: "the largest future",
            figure: size,
            unit: "bytes",
            bound: Bound::AtMost(2048.0),
            of: future.map(|(name, _)| format!("`{name}`")).unwrap_or_default(),
        },
    ]
}

fn whole(report: &Report) -> Vec<Goal> {
    let rows = report.shutdown.as_ref().map_or(&[][..], |it| &it.result.rows);
    let row = rows.iter().find(|row| row.runtime == "embedded" && row.workers == 64);
    let throughput = report.throughput.as_ref().map(|it| &it.result);
    vec![
        Goal {
            item: "Whole shutdown",
            text: "our share with 64 embedded workers",
            figure: row.map(|row| row.ours.median / 1e3),
            unit: "ms",
            bound: Bound::AtMost(10.0),
            of: String::new(),
        },
        Goal {
            item: "Word count",
            text: "throughput of a worker on one core",
            figure: throughput.map(|it| it.without_checkpoints.median.min(it.with_checkpoints.median)),
            unit: "MB/s",
            bound: Bound::AtLeast(100.0),
            of: String::new(),
        },
        Goal {
            item: "Word count",
            text: "cost of checkpoints every 500 ms",
            figure: throughput.map(|it| it.cost * 100.0),
            unit: "%",
            bound: Bound::AtMost(5.0),
            of: String::new(),
        },
    ]
}

fn builds(report: &Report) -> Vec<Goal> {
    let rows = report.builds.as_ref().map_or(&[][..], |it| &it.result.rows);
    let goal = |text, what: &str, limit| {
        let row = rows.iter().find(|row| row.what == what);
        #[expect(clippy::cast_precision_loss, reason = "of a small count")]
        let figure = row.map(|row| row.crates as f64);
        Goal {
            item: "Build",
            text,
            figure,
            unit: "crates",
            bound: Bound::AtMost(limit),
            of: row.map(|row| format!("{:.1} s clean build", row.cold_s)).unwrap_or_default(),
        }
    };
    vec![
        goal("a user's crate without default features", NO_DEFAULTS, 30.0),
        goal("a user's crate with default features", DEFAULTS, 60.0),
        goal("the first command of the README, in the release profile", FIRST_COMMAND, 155.0),
    ]
}

/// A count, as [`number`] writes it.
#[expect(clippy::cast_precision_loss, reason = "of a count far below 2^52")]
pub fn number_of(count: usize) -> String {
    thousands(count as f64)
}
