// A job is taken up with the scheduler that was asked, and with no other.
use winddown::{Detached, Scheduler, drive::Rehydrated};

async fn take_up<S: Scheduler>(checked: Rehydrated<S>, other: S) {
    let _ = checked.build(Detached, other).await;
}

fn main() {}
