//! The result of a suite.

use std::{
    fmt,
    io::{self, Write as _},
};

use super::rule::{Contract, Rule};

/// Every rule of a contract, and whether it is kept.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody looks at checks nothing: call `assert`"]
pub struct Report {
    contract: Contract,
    findings: Vec<(Rule, Verdict)>,
}

/// The result for one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// No violation was found.
    Kept,
    /// It is broken.
    Broken(Breach),
    /// It does not apply to this subject.
    NotApplicable {
        /// Why.
        reason: String,
    },
    /// The subject lacks a hook that the check needs, so the result is unknown.
    NotChecked {
        /// What is missing.
        reason: String,
    },
}

/// How a rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// What the rule requires.
    pub expected: String,
    /// What was seen.
    pub got: String,
    /// Where to start.
    pub advice: String,
}

/// Some rules are broken; it displays the complete report.
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

    /// Every rule of the contract, with its result.
    pub fn findings(&self) -> &[(Rule, Verdict)] {
        &self.findings
    }

    /// The rules that are broken.
    pub fn broken(&self) -> Vec<Rule> {
        self.which(|verdict| matches!(verdict, Verdict::Broken(_)))
    }

    /// The rules that were not checked, because the subject lacks a hook.
    pub fn not_checked(&self) -> Vec<Rule> {
        self.which(|verdict| matches!(verdict, Verdict::NotChecked { .. }))
    }

    /// The rules that do not apply to this subject.
    pub fn not_applicable(&self) -> Vec<Rule> {
        self.which(|verdict| matches!(verdict, Verdict::NotApplicable { .. }))
    }

    fn which(&self, is: impl Fn(&Verdict) -> bool) -> Vec<Rule> {
        self.findings.iter().filter(|(_, verdict)| is(verdict)).map(|(rule, _)| *rule).collect()
    }

    /// Returns the report unless a rule is broken. Unchecked rules are not an error here: see
    /// [`not_checked`](Self::not_checked).
    ///
    /// # Errors
    /// [`NonConforming`] when a rule is broken.
    pub fn into_result(self) -> Result<Self, Box<NonConforming>> {
        if self.broken().is_empty() { Ok(self) } else { Err(Box::new(NonConforming { report: self })) }
    }

    /// For the end of a test: panics if a rule is broken, and prints to standard error which rules
    /// were not checked.
    ///
    /// # Panics
    /// If a rule is broken. The message names every broken rule, with what was expected, what came
    /// and where to start.
    #[track_caller]
    pub fn assert(self) {
        for (rule, verdict) in &self.findings {
            if let Verdict::NotChecked { reason } = verdict {
                // Not `eprintln`, whose output a test harness hides if the test passes. A failed
                // write does not matter.
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
