//! wordcount
#![forbid(unsafe_code)]
#![allow(dead_code)]
mod cli;
mod count;
mod durable;
mod input;
mod output;
mod share;
mod sink;
mod source;
mod state_dir;
mod table;
mod tasks;
mod words;
fn main() {}
