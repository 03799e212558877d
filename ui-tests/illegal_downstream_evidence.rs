// A downstream crate can't add evidence.
use winddown::machine::Evidence;

#[derive(Clone, Copy, Debug)]
struct Hoped;

impl Evidence for Hoped {}

fn main() {}
