//! Every ordered pair of phase types: is there an edge, as the compiler sees it, as `EDGES` says,
//! and as the design says?
//!
//! The design's edges are written out again here, on purpose: whoever changes the table must change
//! this list too.

use std::marker::PhantomData;

use winddown::{
    CheckpointStopping, Checkpointed, Completed, Drained, Finishing, Force, Graceful, Halted, Immediate, Killed,
    PhaseKind, Recovering, Running, StopRequest, Stopped, Stopping, edge,
    machine::{EDGES, Phase, SuccessorOf},
};

struct Step<From, To>(PhantomData<(From, To)>);

/// What holds where no edge is: the inherent constant below shadows this one where its bounds are
/// met.
trait NoEdge {
    const LEGAL: bool = false;
}

impl<From, To> NoEdge for Step<From, To> {}

impl<From: Phase, To: SuccessorOf<From>> Step<From, To> {
    const LEGAL: bool = true;
}

/// Calls `$row!` for every phase type, which pairs it with every phase type.
macro_rules! matrix {
    ($($from:ty),+ $(,)?) => { matrix!(@rows [$($from),+] [$($from),+]) };
    (@rows [$($from:ty),+] $all:tt) => { [$( matrix!(@row $from, $all) ),+].concat() };
    (@row $from:ty, [$($to:ty),+]) => {
        vec![$( (<$from as Phase>::KIND, <$to as Phase>::KIND, Step::<$from, $to>::LEGAL) ),+]
    };
}

fn every_pair() -> Vec<(PhaseKind, PhaseKind, bool)> {
    matrix!(
        Running,
        Finishing,
        Recovering,
        CheckpointStopping,
        Stopping<Graceful>,
        Stopping<Immediate>,
        Stopping<Force>,
        Stopped<Checkpointed>,
        Stopped<Completed>,
        Stopped<Drained>,
        Stopped<Halted>,
        Stopped<Killed>,
    )
}

/// Section 3 of the design.
fn designed() -> Vec<(PhaseKind, PhaseKind)> {
    use PhaseKind::*;
    let table: [(PhaseKind, &[PhaseKind]); 7] = [
        (Running, &[CheckpointStopping, StoppingGraceful, StoppingImmediate, StoppingForce, Finishing, Recovering]),
        (Finishing, &[StoppedCompleted, StoppingGraceful, StoppingImmediate, StoppingForce]),
        (Recovering, &[StoppingImmediate, StoppingForce]),
        (CheckpointStopping, &[StoppedCheckpointed, StoppingImmediate, StoppingForce]),
        (StoppingGraceful, &[StoppedDrained, StoppingImmediate, StoppingForce]),
        (StoppingImmediate, &[StoppedHalted, StoppingForce]),
        (StoppingForce, &[StoppedKilled]),
    ];
    table.iter().flat_map(|(from, tos)| tos.iter().map(|to| (*from, *to))).collect()
}

#[test]
fn i1_every_ordered_pair_of_phases_is_legal_exactly_as_designed() {
    let (pairs, designed) = (every_pair(), designed());
    assert_eq!(pairs.len(), PhaseKind::ALL.len() * PhaseKind::ALL.len());
    for (from, to, compiles) in pairs {
        assert_eq!(compiles, designed.contains(&(from, to)), "{from} -> {to}: the types against the design");
        assert_eq!(compiles, from.can_become(to), "{from} -> {to}: the types against EDGES");
    }
    assert_eq!(EDGES.len(), designed.len(), "EDGES holds each edge once");
}

#[test]
fn terminal_phases_are_those_without_an_edge() {
    for kind in PhaseKind::ALL {
        assert_eq!(kind.is_terminal(), !EDGES.iter().any(|edge| edge.from == *kind), "{kind}");
    }
}

#[test]
fn names_and_tags_are_distinct() {
    for (index, kind) in PhaseKind::ALL.iter().enumerate() {
        for other in &PhaseKind::ALL[index + 1..] {
            assert_ne!(kind.name(), other.name());
            assert_ne!(kind.tag(), other.tag());
        }
    }
}

/// Every walk ends: no edge leads back. `JobContext` keeps the walk in an array of seven for this
/// reason.
#[test]
fn the_longest_walk_has_six_phases() {
    fn longest(from: PhaseKind) -> usize {
        1 + EDGES.iter().filter(|edge| edge.from == from).map(|edge| longest(edge.to)).max().unwrap_or(0)
    }
    assert_eq!(longest(PhaseKind::Running), 6);
}

#[test]
fn i4_no_edge_leads_to_a_weaker_stop() {
    for edge in EDGES.iter().filter(|edge| !edge.to.is_terminal()) {
        assert!(edge.to.fulfils() >= edge.from.fulfils(), "{} -> {}", edge.from, edge.to);
    }
}

#[test]
fn i4_every_phase_fulfils_what_its_name_says() {
    let fulfils = |request, kinds: &[PhaseKind]| {
        for kind in kinds {
            assert_eq!(kind.fulfils(), request, "{kind}");
        }
        kinds.len()
    };
    let in_all = fulfils(None, &[PhaseKind::Running])
        + fulfils(
            Some(StopRequest::Graceful),
            &[PhaseKind::Finishing, PhaseKind::CheckpointStopping, PhaseKind::StoppingGraceful],
        )
        + fulfils(Some(StopRequest::Immediate), &[PhaseKind::Recovering, PhaseKind::StoppingImmediate])
        + fulfils(
            Some(StopRequest::Force),
            &[
                PhaseKind::StoppingForce,
                PhaseKind::StoppedCheckpointed,
                PhaseKind::StoppedCompleted,
                PhaseKind::StoppedDrained,
                PhaseKind::StoppedHalted,
                PhaseKind::StoppedKilled,
            ],
        );
    assert_eq!(in_all, PhaseKind::ALL.len());
}

#[test]
fn an_edge_as_a_value_is_the_one_in_the_list() {
    let one = edge::<CheckpointStopping, Stopped<Checkpointed>>();
    assert!(EDGES.contains(&one));
}
