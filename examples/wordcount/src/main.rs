//! The program `wordcount`; what it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    wordcount::helper().unwrap_or_else(|| wordcount::main(&words, 1))
}
