//! wordcount
#![forbid(unsafe_code)]
#![allow(dead_code)]
mod cli;
mod durable;
mod input;
mod output;
mod share;
mod state_dir;
mod table;
mod words;
fn main() {}
