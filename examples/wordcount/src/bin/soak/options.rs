//! The command line.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use wordcount::Runtime;

/// Stops, kills and freezes real word counts at random, and compares every result with a plain
/// count.
///
/// Each round creates an input and a state directory, and starts `wordcount` on them repeatedly
/// until all input is consumed. It stops the job in random modes, kills the controller (SIGKILL) at
/// random moments or in a phase of the shutdown, and kills or freezes workers (SIGSTOP). With
/// `--runtime embedded`, whose workers are not processes, tasks fail or stall instead. Then
/// `counts.tsv` must equal a plain count of the input, and no process may be left.
///
/// The summary lists how often each action was taken, in which phases the controller was killed
/// (according to its journal), and which phases were never hit. At the first difference the exit
/// code is 1; the state directory is kept, and the program prints how to inspect it.
///
/// The seed determines the actions. Their timing depends on the machine, so a seed does not repeat
/// a run in every detail.
#[derive(Clone, Debug, Parser)]
#[command(name = "soak", verbatim_doc_comment)]
pub(crate) struct Options {
    /// For how many minutes new rounds are started.
    #[arg(long, value_name = "M", default_value_t = 1.0, value_parser = minutes)]
    minutes: f64,
    /// Where the workers run.
    #[arg(long, value_enum, default_value_t = Runtime::Embedded)]
    pub(crate) runtime: Runtime,
    /// Seed of the random choices. Default: random.
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Number of rounds, however long they take.
    #[arg(long, value_name = "N", conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rounds: Option<u64>,
    /// Changes the result of the first round before the comparison, to check that a difference is
    /// found.
    #[arg(long, hide = true)]
    pub(crate) tamper: bool,
}

impl Options {
    /// For how long new rounds are started.
    pub(crate) fn time(&self) -> Duration {
        Duration::try_from_secs_f64(self.minutes * 60.0).unwrap_or(Duration::MAX)
    }

    /// The runtime as the command line has it.
    pub(crate) fn runtime_name(&self) -> String {
        self.runtime.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether workers are processes that can be killed and frozen.
    pub(crate) fn has_processes(&self) -> bool {
        self.runtime != Runtime::Embedded
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 => Ok(minutes),
        _ => Err(format!("expected a number of minutes above zero such as `10` or `0.5`, got `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound_and_says_what_is_wrong() {
        Options::command().debug_assert();
        for line in
            ["--minutes 0", "--minutes -1", "--minutes soon", "--rounds 0", "--minutes 1 --rounds 1", "--seed x"]
        {
            assert!(Options::try_parse_from(std::iter::once("soak").chain(line.split(' '))).is_err(), "{line}");
        }
    }
}
