// A receipt says what was achieved, and can't be made to say something else.
use winddown::{AnyStopped, Receipt};

fn swap(receipt: &mut Receipt, other: AnyStopped) {
    receipt.stopped = other;
}

fn main() {}
