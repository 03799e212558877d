//! Turns the table into types. Nothing here is specific to a phase.

macro_rules! machine {
    (
        phases { $( $(#[$doc:meta])* $kind:ident = $phase:ty, $name:literal, $tag:literal; )+ }
        edges { $( $(#[$after_doc:meta])* $from:ty => $after:ident { $( $variant:ident($to:ty): $when:literal; )+ } )+ }
    ) => {
        /// A phase as a value: for progress, records and logs. It proves nothing.
        ///
        /// Exhaustive: a new phase is a breaking change, because code that matches on it has to
        /// handle it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum PhaseKind { $( $(#[$doc])* #[serde(rename = $tag)] $kind, )+ }

        impl PhaseKind {
            /// Every phase.
            pub const ALL: &'static [Self] = &[$( Self::$kind, )+];

            /// The phase's type, as written in code.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$kind => $name, )+ }
            }

            /// A name that never changes, for records and metrics.
            pub const fn tag(self) -> &'static str {
                match self { $( Self::$kind => $tag, )+ }
            }

            /// The phase that has this [`tag`](Self::tag).
            pub fn from_tag(tag: &str) -> Option<Self> {
                match tag {
                    $( $tag => Some(Self::$kind), )+
                    _ => None,
                }
            }
        }

        /// Any phase, for code that drives the machine at run time, as
        /// [`drive`](crate::drive::drive) does. Exhaustive, like [`PhaseKind`].
        #[derive(Debug)]
        #[must_use = "a phase that is dropped is a shutdown that nobody finishes"]
        pub enum AnyPhase { $( $(#[$doc])* $kind($phase), )+ }

        impl AnyPhase {
            /// Which phase it is.
            pub const fn kind(&self) -> PhaseKind {
                match self { $( Self::$kind(_) => PhaseKind::$kind, )+ }
            }

            /// Does the phase's work; the outcome stays in it.
            pub(crate) async fn run<C: JobController, S: Scheduler>(
                &mut self,
                job: &mut JobContext<C, S>,
            ) -> Result<(), StepError> {
                match self { $( Self::$kind(phase) => Walk::run(phase, job).await, )+ }
            }

            /// Steps to the successor, after a `run` that was `Ok`. It does not wait.
            pub(crate) fn proceed<C: JobController, S>(
                self,
                job: &mut JobContext<C, S>,
            ) -> AnyPhase {
                match self { $( Self::$kind(phase) => Walk::proceed(phase, job), )+ }
            }

            /// Steps to a forced stop, from every phase that is neither one nor the end.
            pub(crate) fn force<C, S>(
                self,
                reason: Reason,
                job: &mut JobContext<C, S>,
            ) -> Result<AnyPhase, StepFailed<AnyPhase>> {
                match self {
                    $( Self::$kind(phase) => phase.forced(reason, job).map_err(|failed| failed.map(Into::into)), )+
                }
            }

            /// Whether the job is in this phase.
            pub(crate) fn check<C, S>(&self, job: &JobContext<C, S>) -> Result<(), StepError> {
                match self { $( Self::$kind(phase) => job.check(phase), )+ }
            }
        }

        /// The end, if that is the phase; otherwise the phase comes back.
        impl TryFrom<AnyPhase> for AnyStopped {
            type Error = AnyPhase;

            fn try_from(phase: AnyPhase) -> Result<Self, AnyPhase> {
                match phase { $( AnyPhase::$kind(phase) => phase.ended().map_err(Into::into), )+ }
            }
        }

        $(
            #[diagnostic::do_not_recommend]
            impl Phase for $phase {
                const KIND: PhaseKind = PhaseKind::$kind;
            }

            #[diagnostic::do_not_recommend]
            impl From<$phase> for AnyPhase {
                fn from(phase: $phase) -> Self {
                    Self::$kind(phase)
                }
            }
        )+

        /// Every edge of the machine, in the order of the table.
        pub const EDGES: &[Edge] = &[$( $(
            Edge { from: <$from as Phase>::KIND, to: <$to as Phase>::KIND, when: $when },
        )+ )+];

        $(
            $(#[$after_doc])*
            ///
            /// Exhaustive: a new edge is a breaking change, and the compiler shows every place that
            /// has to decide what it means.
            #[derive(Debug)]
            #[must_use = "the successor is the shutdown itself: match on it, and go on with the phase it holds"]
            pub enum $after {
                $(
                    #[doc = concat!("Taken on: ", $when, ".")]
                    $variant($to),
                )+
            }

            impl $after {
                /// Which phase follows.
                pub const fn kind(&self) -> PhaseKind {
                    match self { $( Self::$variant(_) => <$to as Phase>::KIND, )+ }
                }
            }

            impl<C: JobController> Walk<C> for $from {
                async fn run<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
                    work::run(self, job).await
                }

                fn proceed<S>(self, job: &mut JobContext<C, S>) -> AnyPhase {
                    work::proceed(self, job)
                }
            }

            #[diagnostic::do_not_recommend]
            impl From<$after> for AnyPhase {
                fn from(after: $after) -> Self {
                    match after { $( $after::$variant(phase) => phase.into(), )+ }
                }
            }

            $(
                #[diagnostic::do_not_recommend]
                impl sealed::EdgeFrom<$from> for $to {}
                #[diagnostic::do_not_recommend]
                impl SuccessorOf<$from> for $to {
                    const WHEN: &'static str = $when;
                }
            )+
        )+
    };
}
