//! Explores what can go wrong in a shutdown.
use winddown::testing::explore::Explorer;
fn main() {
    let n: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1000);
    if let Some(line) = std::env::args().nth(2) {
        for f in Explorer::new().replay(&line).unwrap() {
            println!("{f}");
        }
        return;
    }
    println!("{}", Explorer::new().schedules(n).run());
}
