//! Stops a Flink job, and says what is proven about its end: `winddown-flink stop JOB --rest URL`.

mod ladder;
mod options;
mod outcome;
mod stop;

use std::process::ExitCode;

use clap::Parser;
use winddown_flink::{FlinkJob, RestClient};

use options::{Cli, Command, ListOptions};
use outcome::Exit;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        Command::Stop(options) => stop::stop(options).await,
        Command::List(options) => list(options).await,
    };
    exit.into()
}

async fn list(options: ListOptions) -> Exit {
    let client = match options.cluster.settings().and_then(|it| Ok(RestClient::new(it)?)) {
        Ok(client) => client,
        Err(error) => return outcome::say_error(Exit::Usage, &*error, options.json),
    };
    match FlinkJob::list(&client).await {
        Ok(jobs) if options.json => outcome::say_json(&jobs, Exit::Asked),
        Ok(jobs) => {
            for job in jobs {
                println!("{}  {:<12} {}", job.id, job.state.to_string(), job.name);
            }
            Exit::Asked
        }
        Err(error) => outcome::say_error(Exit::Unknown, &error, options.json),
    }
}
