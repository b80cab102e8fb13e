//! Checking one journal: its objects one after the other, and what stands at its end.

use everpoint_format::data::DataIndex;
use everpoint_format::name;
use everpoint_format::object::{ObjectChecksum, Seal};
use everpoint_journal::path::{Listing, gapless_run};
use everpoint_units::{JournalId, ObjectNo};
use everpoint_vault::history::{ObjectFound, list_journal, read_end, read_objects};
use futures::StreamExt as _;

use super::{Checking, Finding, Severity, with_causes};
use crate::error::LoadError;
use crate::frames::object_name;

/// A journal as far as it was read.
struct Chain {
    journal: JournalId,
    /// Checksum of the object before, if that one decoded.
    previous: Option<ObjectChecksum>,
    seal: Option<Seal>,
    /// Two neighbours disagreed, or a seal came: what follows is of no history.
    has_ended: bool,
}

impl Checking<'_> {
    pub(super) async fn check_journal(&mut self, journal: JournalId) -> Result<(), LoadError> {
        let listing = list_journal(self.vault, journal).await?;
        let run = gapless_run(&listing);
        let mut chain = Chain {
            journal,
            previous: Some(ObjectChecksum::default()),
            seal: None,
            has_ended: false,
        };
        let names = (1..=run.0).map(move |number| (journal, ObjectNo(number)));
        let mut objects = read_objects(self.vault, self.header.vault, names);
        while let Some(object) = objects.next().await {
            let (_, number, found) = object?;
            self.report.object_count += 1;
            self.check_object(&mut chain, number, found).await?;
            self.tell();
        }
        self.check_rest(journal, &listing, run);
        self.check_end(&listing, &chain).await
    }

    async fn check_object(
        &mut self,
        chain: &mut Chain,
        number: ObjectNo,
        found: ObjectFound,
    ) -> Result<(), LoadError> {
        let object = object_name(chain.journal, number);
        let mut add = |severity, what: String| {
            self.report
                .add(Finding::of_object(severity, object.as_str(), what));
        };
        if chain.has_ended {
            add(
                Severity::Notice,
                "lies behind the journal's end, void".into(),
            );
            return Ok(());
        }
        match found {
            ObjectFound::Data(data, _) => {
                if chain.disagrees_with(&data) {
                    add(
                        Severity::Damage,
                        "does not follow the object before it".into(),
                    );
                    chain.has_ended = true;
                    return Ok(());
                }
                chain.previous = Some(data.checksum);
                self.check_data(chain.journal, number, &data).await?;
            }
            ObjectFound::Seal(seal) => {
                let last = ObjectNo(number.0 - 1);
                let disagrees = chain.previous.is_some_and(|sum| sum != seal.last_checksum);
                if seal.prefix_end != last || disagrees {
                    add(
                        Severity::Damage,
                        "the seal disagrees with the objects before it".into(),
                    );
                }
                if seal.successor.level <= chain.journal.level {
                    add(
                        Severity::Damage,
                        "the seal's successor has no higher level".into(),
                    );
                }
                chain.seal = Some(seal);
                chain.has_ended = true;
            }
            ObjectFound::Damaged(damage) => {
                chain.previous = None;
                add(Severity::Damage, with_causes(&damage));
            }
            ObjectFound::Missing => {
                chain.previous = None;
                add(Severity::Damage, "was listed, and is gone".into());
            }
        }
        Ok(())
    }

    /// Objects behind the first gap are those of a server that was fenced.
    fn check_rest(&mut self, journal: JournalId, listing: &Listing, run: ObjectNo) {
        let behind = listing.objects.iter().filter(|(number, _)| run < *number);
        let count = behind.count();
        if 0 < count {
            let what = format!("{count} objects lie behind a gap at {}, void", run.next());
            let folder = name::journal(journal);
            self.report
                .add(Finding::of_object(Severity::Notice, &folder, what));
        }
    }

    async fn check_end(&mut self, listing: &Listing, chain: &Chain) -> Result<(), LoadError> {
        if !listing.has_end {
            return Ok(());
        }
        let end = read_end(self.vault, self.header.vault, chain.journal).await?;
        let what = match end {
            Some(Ok(end)) if Some(end) == chain.seal || chain.seal.is_none() => return Ok(()),
            Some(Ok(_)) => "is not a copy of the journal's seal".into(),
            Some(Err(error)) => with_causes(&error),
            None => "was listed, and is gone".into(),
        };
        let object = name::journal_end(chain.journal);
        self.report
            .add(Finding::of_object(Severity::Damage, &object, what));
        Ok(())
    }
}

impl Chain {
    fn disagrees_with(&self, data: &DataIndex) -> bool {
        self.previous
            .is_some_and(|previous| previous != data.header.previous)
    }
}
