//! What a suite has found.

use std::{
    fmt,
    io::{self, Write as _},
};

use super::rule::{Contract, Rule};

/// Every rule of a contract, and whether it was kept.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody looks at checks nothing: call `assert`"]
pub struct Report {
    contract: Contract,
    findings: Vec<(Rule, Verdict)>,
}

/// What was found of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// No breach was found.
    Kept,
    /// It is broken.
    Broken(Breach),
    /// It says nothing about this subject.
    NotApplicable {
        /// Why.
        reason: String,
    },
    /// The subject does not offer what the check needs, so nobody knows.
    NotChecked {
        /// What is missing.
        reason: String,
    },
}

/// How a rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// What the rule demands.
    pub expected: String,
    /// What was seen.
    pub got: String,
    /// Where to begin.
    pub advice: String,
}

/// Some rules are broken; it displays the whole report.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{report}")]
pub struct NonConforming {
    /// What was found.
    pub report: Report,
}

impl Report {
    pub(super) const fn new(contract: Contract) -> Self {
        Self { contract, findings: Vec::new() }
    }

    pub(super) fn note(&mut self, rule: Rule, verdict: Verdict) {
        self.findings.push((rule, verdict));
    }

    /// The contract.
    pub const fn contract(&self) -> Contract {
        self.contract
    }

    /// Every rule of the contract, with what was found.
    pub fn findings(&self) -> &[(Rule, Verdict)] {
        &self.findings
    }

    /// The rules that are broken.
    pub fn broken(&self) -> Vec<Rule> {
        self.which(|verdict| matches!(verdict, Verdict::Broken(_)))
    }

    /// The rules that were not checked, because the subject does not offer what it takes.
    pub fn not_checked(&self) -> Vec<Rule> {
        self.which(|verdict| matches!(verdict, Verdict::NotChecked { .. }))
    }

    /// The rules that say nothing about this subject.
    pub fn not_applicable(&self) -> Vec<Rule> {
        self.which(|verdict| matches!(verdict, Verdict::NotApplicable { .. }))
    }

    fn which(&self, is: impl Fn(&Verdict) -> bool) -> Vec<Rule> {
        self.findings.iter().filter(|(_, verdict)| is(verdict)).map(|(rule, _)| *rule).collect()
    }

    /// The report, unless a rule is broken. Rules that were not checked are no error here: see [`not_checked`](Self::not_checked).
    ///
    /// # Errors
    /// [`NonConforming`] when a rule is broken.
    pub fn into_result(self) -> Result<Self, Box<NonConforming>> {
        if self.broken().is_empty() { Ok(self) } else { Err(Box::new(NonConforming { report: self })) }
    }

    /// Ends a test: panics if a rule is broken, and says on standard error which rules were not checked.
    ///
    /// # Panics
    /// If a rule is broken. The message names every broken rule, what was expected, what came and where to begin.
    #[track_caller]
    pub fn assert(self) {
        for (rule, verdict) in &self.findings {
            if let Verdict::NotChecked { reason } = verdict {
                // Not `eprintln`: a test harness keeps that of a test that passes to itself. Nobody misses it if it can't be written.
                let _ = writeln!(io::stderr(), "NOT CHECKED {rule}: {reason}");
            }
        }
        assert!(self.broken().is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = self.broken();
        writeln!(f, "{}: {} of {} rules are broken", self.contract, broken.len(), self.findings.len())?;
        for rule in broken {
            writeln!(f, "  BROKEN {rule}")?;
        }
        for rule in self.not_checked() {
            writeln!(f, "  NOT CHECKED {rule}")?;
        }
        for (rule, verdict) in &self.findings {
            match verdict {
                Verdict::Kept => writeln!(f, "kept           {rule}: {}", rule.says())?,
                Verdict::NotApplicable { reason } => writeln!(f, "not applicable {rule}: {reason}")?,
                Verdict::NotChecked { reason } => writeln!(f, "NOT CHECKED    {rule}: {}\n  {reason}", rule.says())?,
                Verdict::Broken(Breach { expected, got, advice }) => {
                    writeln!(f, "BROKEN         {rule}: {}", rule.says())?;
                    writeln!(f, "  expected {expected}\n  got {got}\n  {advice}")?;
                    writeln!(f, "  the rule is in the documentation of `winddown::{}`", rule.written_in())?;
                }
            }
        }
        Ok(())
    }
}
