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
use everpoint_vault::frames::object_name;

/// A journal as far as it was read.
struct Chain {
    journal: JournalId,
    /// Checksum of the object before, if that one decoded.
    previous: Option<ObjectChecksum>,
    /// The end of the prefix, and that object's checksum, once two neighbours disagreed: what follows is
    /// of no history, but a seal may still come.
    prefix: Option<(ObjectNo, Option<ObjectChecksum>)>,
    seal: Option<Seal>,
}

impl Checking<'_> {
    pub(super) async fn check_journal(&mut self, journal: JournalId) -> Result<(), LoadError> {
        let listing = list_journal(self.vault, journal).await?;
        let run = gapless_run(&listing);
        let mut chain = Chain {
            journal,
            previous: Some(ObjectChecksum::default()),
            prefix: None,
            seal: None,
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
        if let ObjectFound::Data(_, len) = &found {
            self.is_there(&object, *len);
        }
        let mut add = |severity, what: String| {
            self.report
                .add(Finding::of_object(severity, object.as_str(), what));
        };
        let is_seal = matches!(found, ObjectFound::Seal(_));
        if chain.seal.is_some() || (chain.prefix.is_some() && !is_seal) {
            add(
                Severity::Notice,
                "lies behind the journal's end, void".into(),
            );
            return Ok(());
        }
        match found {
            ObjectFound::Data(data, _) => {
                if chain.disagrees_with(&data) {
                    // Two lives of one server wrote here. Whether the prefix is whole, its seal says.
                    let what = "does not follow the object before it, void with all behind it";
                    add(Severity::Notice, what.into());
                    chain.prefix = Some((ObjectNo(number.0 - 1), chain.previous));
                    return Ok(());
                }
                chain.previous = Some(data.checksum);
                self.check_data(chain.journal, number, &data).await?;
            }
            ObjectFound::Seal(seal) => {
                let run = (ObjectNo(number.0 - 1), chain.previous);
                let (last, checksum) = chain.prefix.unwrap_or(run);
                let disagrees = checksum.is_some_and(|sum| sum != seal.last_checksum);
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
