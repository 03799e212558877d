//! Choices. A schedule is the list of the choices that differ from the default, so that it can be
//! replayed and shortened.

use std::fmt::{self, Debug};

/// At the choice point with this number, this option instead of option 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Deviation {
    pub(super) at: u32,
    pub(super) option: u8,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.at, self.option)
    }
}

/// A choice point that a schedule has passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) at: u32,
    pub(super) options: u8,
    /// The state that the choice was made in.
    pub(super) digest: u64,
}

/// Makes every choice of a schedule, according to a plan or at random.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    plan: Vec<Deviation>,
    /// The used part of the plan.
    used: usize,
    at: u32,
    random: Option<Walk>,
    /// The deviations from the default.
    pub(super) taken: Vec<Deviation>,
    /// The points after the last deviation of the plan, with their other options.
    pub(super) points: Vec<Point>,
    /// The choices in words, if requested.
    pub(super) story: Option<Vec<String>>,
}

/// A random walk: each choice differs from the default with a chance of one in `one_in`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub(super) random: Random,
    pub(super) one_in: u64,
    pub(super) most: usize,
}

impl Chooser {
    /// Resets it for another schedule, and keeps its allocations.
    pub(super) fn start(&mut self, plan: &[Deviation], random: Option<Walk>, tell: bool) {
        self.plan.clear();
        self.plan.extend_from_slice(plan);
        self.taken.clear();
        self.points.clear();
        (self.used, self.at, self.random) = (0, 0, random);
        self.story = tell.then(Vec::new);
    }

    /// Whether points are recorded: the plan is used up.
    pub(super) fn is_beyond_plan(&self) -> bool {
        self.used == self.plan.len()
    }

    /// One of `options`. `digest` is the digest of the state; it is needed only beyond the plan.
    pub(super) fn choose<O: Copy + Debug>(&mut self, options: &[O], digest: u64) -> O {
        let at = self.at;
        self.at += 1;
        let planned = self.plan.get(self.used).filter(|next| next.at == at).copied();
        let option = match planned {
            Some(deviation) => {
                self.used += 1;
                deviation.option
            }
            None => self.walk(options.len()),
        };
        let chosen = options.get(usize::from(option)).copied().unwrap_or(options[0]);
        if option > 0 {
            self.taken.push(Deviation { at, option });
            if let Some(story) = &mut self.story {
                story.push(format!("{at}={option}: {chosen:?}"));
            }
        } else if self.is_beyond_plan() {
            let options = u8::try_from(options.len()).unwrap_or(u8::MAX);
            self.points.push(Point { at, options, digest });
        }
        chosen
    }

    fn walk(&mut self, options: usize) -> u8 {
        let Some(walk) = &mut self.random else { return 0 };
        if self.taken.len() >= walk.most || !walk.random.next().is_multiple_of(walk.one_in) {
            return 0;
        }
        u8::try_from(walk.random.below(options)).unwrap_or(0)
    }
}

/// Random numbers that are the same everywhere for one seed (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // A few rounds, so that neighbouring seeds diverge.
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }
}
