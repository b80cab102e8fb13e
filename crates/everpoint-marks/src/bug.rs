//! The bugs that can be planted: what each does, which faults bring it to light, and how many seeds the
//! simulated world is given to find it.

/// How a bug is searched for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Search {
    /// One of the first so many seeds finds it.
    pub seeds: u64,
    /// Faults that have to meet, where one alone does no harm.
    pub together: Option<&'static str>,
}

/// One fault is enough.
const fn one(seeds: u64) -> Search {
    Search {
        seeds,
        together: None,
    }
}

/// It takes two faults that meet.
const fn two(together: &'static str, seeds: u64) -> Search {
    Search {
        seeds,
        together: Some(together),
    }
}

macro_rules! bugs {
    ($($bug:ident: $about:literal, $search:expr;)*) => {
        /// A wrong step, or a check that is missing.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Bug {
            $(#[doc = $about] $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// As it stands in the code.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => stringify!($bug),)* }
            }

            /// What it does.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$bug => $about,)* }
            }

            /// How it is searched for.
            pub const fn search(self) -> Search {
                match self { $(Self::$bug => $search,)* }
            }
        }
    };
}

bugs! {
    // The cache log.
    AckBeforeSync: "an append is answered when it is written, not when it is synced", one(400);
    SyncFailureRetried: "a sync that failed is tried again, and its success believed",
        two("a sync error, then a crash", 800);
    RecoveredUnsynced: "a boot believes what it reads and does not sync it first",
        two("a sync error, then a power cut", 1_000);
    FreesTooFar: "a file is freed when its first block is settled", one(400);
    TornRecordSkipped: "a record that is torn is passed over, and what lies behind it taken",
        two("a batch that is torn, then an older record behind it", 40_000);
    TailNotMarked: "the tail that a boot found is not marked as final",
        two("a log that rots after a boot has read it, then a crash", 16_000);

    // The process server.
    CachedWhenTaken: "a block is said to be cached when it is taken", one(4_000);
    CachedAtHello: "a new session is told that what was taken is cached",
        two("a new session, then a crash before the sync", 8_000);
    GapAccepted: "a block is taken though one before it is missing", one(400);
    WrongBaseAccepted: "a generation is taken that builds on something else", one(800);
    OvertakenTailCommitted: "a recovered tail is committed though it continues no path", one(400);
    TailNotCommitted: "a recovered tail is never committed", one(400);
    BacklogOvertakes: "blocks in memory overtake those that are to be read again", one(40_000);
    FreesInFlight: "the log is freed of what is on its way to the vault",
        two("a create that takes long or has no clear answer, then a crash", 16_000);
    CommittedOverGap: "an object counts as committed before those below it are stored", one(800);
    CutByMax: "the cut is that of the newest disk, not of the oldest", one(400);
    CutOfReceived: "the cut counts what is held and not committed", one(400);
    BatchLostAtRotation: "a new journal begins with an empty batch", one(400);
    ChainCarriedOver: "the first object of a new journal names one of the old", one(400);
    OwnedWithoutPath: "a machine is served though its path leads elsewhere (R6)", one(400);
    EarlierNotSealed: "a boot forgets its earlier journals without sealing them (R5)", one(400);
    SealBehindGap: "a seal stands behind the last object listed, not behind the gapless run",
        two("a create that takes long or has no clear answer, then a crash", 800);
    SealNotChecked: "a seal whose number was taken counts as created",
        two("a create that is carried out late, and a crash", 200_000);
    SealStatesLess: "a seal states a prefix that is one object too short",
        one(400);
    LevelBelowVault: "a boot looks at its own journals only for its level (R2)",
        one(400);
    FenceNotRaised: "a replica's fence is not raised after a request whose outcome is unknown",
        two("a put that lands late, and a newer one to the same place", 4_000);

    // The agent.
    FreedWhenSent: "an agent frees a block when it is sent", one(400);
    MarksOfAnyGeneration: "marks count for the current generation, whichever they speak of",
        one(8_000);
    OrderLossForgotten: "no generation begins after order was lost", one(400);
    PositionUnknownIgnored: "order goes on though the server's position is unknown", one(400);
    CompleteTooEarly: "a resync is complete while questions are unanswered", one(400);
    AnswerNumbersReused: "questions of a new resync have the numbers of the old",
        two("a resync that ends early, while a question is under way, then another", 16_000);
    QuestionsForgotten: "what was asked on a broken link is not asked again",
        two("a resync, and a link that breaks during it", 400);
    LocalErrorOverlooked: "a write that failed on the local disk does not end the order", one(400);
    DiscardNotQueued: "a discard gets its place and is not recorded", one(400);
    SaysTooMuch: "a block says that its disk is complete beyond what was given out", one(400);
    SeqsGivenTwice: "a new process goes on where the one before began", one(400);
    HoleNotLookedAt: "a hole is queued as zeroes without a second look under the lock",
        one(4_000);
    SharedLockIgnored: "a resync reads while a guest writes the same sectors",
        one(400);
    OldEpochAccepted: "an agent neither says nor checks which epoch it has seen (R12)",
        two("a take-over, then a link to the server before it", 16_000);

    // Reading a history.
    PointsWhileResyncing: "points are listed between the loss of order and `resync complete`", one(400);
    UnknownPieceEqual: "a piece whose digest is unknown counts as equal", one(400);
    PathOverGap: "a path goes on behind a number that is missing", one(800);
}

impl Bug {
    /// The bug of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}
