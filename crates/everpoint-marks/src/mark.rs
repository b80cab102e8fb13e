//! The marks: rare and important branches that a long run of the simulated world must reach.

use Reach::{Awaits, Often, Rarely};

/// How a mark is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// In some hundreds of seeds.
    Often,
    /// In a long run.
    Rarely,
    /// The simulated world does not come by there yet: what it lacks.
    Awaits(&'static str),
}

macro_rules! marks {
    ($($mark:ident: $reach:expr, $about:literal;)*) => {
        /// A place in the product.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Mark {
            $(#[doc = $about] $mark,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$mark,)*];

            /// As it stands in the code.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$mark => stringify!($mark),)* }
            }

            /// What happens there.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$mark => $about,)* }
            }

            /// How it is reached.
            pub const fn reach(self) -> Reach {
                match self { $(Self::$mark => $reach,)* }
            }
        }
    };
}

marks! {
    // The cache log.
    RecordsBehindTear: Often, "recovery finds records behind a torn one, and leaves them";
    TailMarked: Often, "recovery marks a tail as final";
    LogPoisoned: Often, "the log fails for ever";
    LogOutOfSpace: Often, "the file system has no space for a batch";
    LogHasSpaceAgain: Often, "a batch is written after there was no space";
    FileRefused: Often, "the file system has no space for a file";
    FileUsedAgain: Often, "a file whose blocks are settled becomes a spare";

    // The process server.
    TailContinued: Often, "a block of an earlier boot continues the path";
    TailOvertaken: Often, "a block of an earlier boot continues no path, and is left out";
    TailDiscarded: Often, "a logged block leads nowhere: its place is settled without a commit";
    BlockLeftToLog: Often, "memory is full: a block is to be read again from the log";
    BlockReadAgain: Often, "a block is read again from the log";
    DuplicateBlock: Rarely, "a block comes that is here already";
    BlockBehindGap: Often, "a block is refused because one before it is missing";
    StaleGeneration: Often, "a block is refused because its generation is over";
    WrongBase: Rarely, "a generation is refused because it builds on something else";
    RefusalOnItsWay: Often, "a block behind a refused one gets no answer of its own";
    CorruptBlock: Often, "a block does not match its checksum";
    BlockOfOldSession: Awaits("a session that is over and whose blocks are looked at all the same"), "a block comes in a session that is over";
    UnfinishedBuiltOn: Often, "a generation builds on one whose resync was never complete";
    GenerationOnNothing: Often, "a disk begins with an empty disk";
    OwnedElsewhere: Often, "a machine's path leads to another journal";
    PathReadAgain: Rarely, "the own journal was rotated while a path was read";
    OriginWanted: Often, "a machine has no origin: one is made";
    OriginTaken: Rarely, "another server's origin was faster";
    BatchCarriedOver: Rarely, "a batch goes on in the next journal";
    RotationOwned: Often, "the seal of the own journal states all that was written";
    SeveralJournalsSealed: Often, "a boot seals what several boots left open";
    LevelOfTheVault: Often, "the vault knows higher levels than the server";
    StoredOutOfOrder: Often, "an object is stored before one below it";
    SealThere: Often, "a journal that is to be sealed has a seal already";
    SealNumberTaken: Rarely, "an object took the number of a seal";
    EmptyJournalSealed: Often, "a journal is sealed in which nothing was written";
    GapInListing: Often, "a listing has objects behind a missing number";
    ReplicaOutcomeUnknown: Often, "a replica's fence is raised because nobody knows what became of a request";
    ReplicaGapFilled: Often, "a put fills a gap with what an earlier window put there";
    ReplicaFenced: Rarely, "a replica is given up: its machine's path leads elsewhere";
    ReplicaRebuilt: Often, "a replica is disowned, to be written again from the origin on";

    // The agent.
    QueueOverflows: Often, "a change does not fit the queue: its disk loses order";
    LocalDiskFails: Often, "the local disk fails a change: its disk loses order";
    LockWaits: Often, "a request waits for another that touches the same sectors";
    QuietDiskSpeaks: Often, "a disk without changes says how far it is complete";
    ResyncWaitsForRoom: Often, "a resync leaves the queue to the guests";
    PositionUnknown: Often, "the server's position is not in the agent's past";
    HeldGivenUp: Often, "blocks that were held lead nowhere";
    RefusedTooOften: Rarely, "sending the same again is given up";
    RefusalEchoed: Often, "a refusal says what an earlier one said";
    OldEpochRefused: Awaits("a server that serves an agent which has seen a higher epoch"), "a server is refused whose epoch is over";
    EpochRose: Rarely, "marks speak for a higher epoch than the hello";
    AskedAgain: Often, "questions of a broken link are asked again";
    AnswerToNobody: Rarely, "an answer comes that nobody waits for";
    BatchWorthless: Rarely, "a batch was packed for a generation that is over";
    GenerationWaitsForRoom: Often, "a generation waits until the queue is drained";
    GenerationWaits: Often, "a generation waits because the one before was never level";
    HoleFilled: Rarely, "a hole was written to before it was looked at again";
    PieceUnknown: Often, "a piece is compared whose digest is not known";
    CompareWithoutBase: Rarely, "a compare finds that what its generation builds on is damaged";
}
