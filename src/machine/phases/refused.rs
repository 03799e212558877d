//! Steps that cannot be taken, so that the compiler's message explains why in terms of the
//! shutdown. Each item here requires a trait that no phase implements; without it, the message
//! would only say that a method or a trait is missing.

use std::{convert::Infallible, future::Pending};

use serde::{Deserialize, Deserializer, de::Error};

use super::{CheckpointStopping, Evidence, Finishing, Recovering, Running, Stopped, Stopping};
use crate::machine::{Force, Graceful, Immediate, JobContext};

/// A phase that has a successor, required of `Stopped`.
#[diagnostic::on_unimplemented(
    message = "illegal shutdown transition: `{Self}` is the end of the shutdown, and no phase follows it",
    label = "the job has stopped: there is no next phase",
    note = "to run the job again, start a new run; docs/transitions.md lists every legal step"
)]
pub trait Continues: Sized {
    fn never(self) -> Pending<Self>;
}

/// A phase into which `Stopped` can be converted.
#[diagnostic::on_unimplemented(
    message = "illegal shutdown transition: `{From}` -> `{Self}`",
    label = "the shutdown machine has no edge from `{From}` to `{Self}`",
    note = "to run the job again, start a new run; docs/transitions.md lists every legal step"
)]
pub trait Revives<From> {
    fn never(from: From) -> Self;
}

/// A phase that can be made by parsing its record.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be made by parsing a record: a record only claims that the shutdown got there",
    label = "a phase is reached by a legal transition, and cannot be parsed",
    note = "`winddown::rehydrate` goes on with a shutdown from its `PhaseRecord`, and checks what the record claims"
)]
pub trait Parsed<'de>: Sized {
    fn never<D: Deserializer<'de>>(record: D) -> Result<Self, D::Error>;
}

// Without any implementation, rustc suggests writing one. No value of this type exists.

#[diagnostic::do_not_recommend]
impl Continues for Infallible {
    fn never(self) -> Pending<Self> {
        match self {}
    }
}

#[diagnostic::do_not_recommend]
impl Revives<Self> for Infallible {
    fn never(from: Self) -> Self {
        from
    }
}

#[diagnostic::do_not_recommend]
impl<'de> Parsed<'de> for Infallible {
    fn never<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("there is no such value"))
    }
}

impl<E: Evidence> Stopped<E> {
    #[doc(hidden)]
    pub fn next<C, S>(self, _: &mut JobContext<C, S>) -> Pending<Self>
    where
        Self: Continues,
    {
        self.never()
    }
}

macro_rules! refused {
    ($($phase:ty),+) => { $(
        #[doc(hidden)]
        impl<E: Evidence> From<Stopped<E>> for $phase
        where
            Self: Revives<Stopped<E>>,
        {
            fn from(stopped: Stopped<E>) -> Self {
                Self::never(stopped)
            }
        }

        #[doc(hidden)]
        impl<'de> Deserialize<'de> for $phase
        where
            Self: Parsed<'de>,
        {
            fn deserialize<D: Deserializer<'de>>(record: D) -> Result<Self, D::Error> {
                Self::never(record)
            }
        }
    )+ };
}

refused!(Running, Finishing, Recovering, CheckpointStopping, Stopping<Graceful>, Stopping<Immediate>, Stopping<Force>);

#[doc(hidden)]
impl<'de, E: Evidence> Deserialize<'de> for Stopped<E>
where
    Self: Parsed<'de>,
{
    fn deserialize<D: Deserializer<'de>>(record: D) -> Result<Self, D::Error> {
        Self::never(record)
    }
}
