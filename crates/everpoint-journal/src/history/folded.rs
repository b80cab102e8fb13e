//! A history as a manifest and the marks of its layers keep it, and taken up again from them.

use std::collections::BTreeMap;

use everpoint_format::layer::marks::{Marks, RequestMark};
use everpoint_format::manifest::{BrokenAt, DiskState, Manifest};
use everpoint_units::{DiskId, Seq};

use super::requests::Requests;
use super::{Bookmark, Broken, DiskHistory, Life, MachineHistory, Span};

impl MachineHistory {
    /// The history up to a manifest's position. Times, bookmarks and requests of several changes that are in no
    /// point which the manifest lists come from its layers' marks: see [`Self::add_marks`].
    pub fn take_up(manifest: &Manifest) -> Self {
        let mut history = Self::new(manifest.machine);
        history.highest_seq = manifest.highest_seq;
        history.every_from = manifest.every_from;
        for disk in &manifest.disks {
            history.disks.insert(disk.disk, DiskHistory::take_up(disk));
        }
        for point in &manifest.points {
            history.kept.insert(point.seq);
            history.times.insert(point.seq, point.at);
            if let Some(class) = point.class {
                let bookmark = Bookmark {
                    name: point.name.clone(),
                    class,
                    at: point.at,
                };
                history.bookmarks.insert(point.seq, bookmark);
            }
        }
        history
    }

    /// Adds what a layer of the disk says besides extents; layers in the order in which they were made.
    pub fn add_marks(&mut self, disk: DiskId, marks: &Marks) {
        self.times.extend(marks.times.iter().copied());
        let bookmarks = marks.bookmarks.iter().map(|mark| {
            let bookmark = Bookmark {
                name: mark.name.clone(),
                class: mark.class,
                at: mark.at,
            };
            (mark.seq, bookmark)
        });
        self.bookmarks.extend(bookmarks);
        if let Some(disk) = self.disks.get_mut(&disk) {
            disk.add_requests(&marks.requests);
        }
    }

    /// The requests of several changes that were folded since the history was taken up, of one disk: to be kept in the
    /// marks of a layer.
    pub fn marks_of(&self, disk: DiskId) -> Vec<RequestMark> {
        let disk = self.disks.get(&disk);
        let requests = disk.into_iter().flat_map(|disk| {
            let copy = disk.copy();
            let closed = disk.requests.closed();
            closed.map(move |(first, last, ends)| RequestMark {
                first,
                last,
                ends,
                copy,
            })
        });
        requests.collect()
    }

    /// Every disk, as a manifest keeps it.
    pub fn disk_states(&self) -> Vec<DiskState> {
        let states = self.disks.iter().map(|(id, disk)| disk.state(*id));
        states.collect()
    }
}

impl DiskHistory {
    fn take_up(state: &DiskState) -> Self {
        let mut requests = Requests::default();
        if let Some(open) = state.open_request {
            requests.take_up(open);
        }
        let lives = state.lives.iter();
        let lives = lives.map(|&(begun, ended)| Life { begun, ended });
        let spans = state.spans.iter();
        let spans = spans.map(|&(from, through)| Span { from, through });
        Self {
            name: state.name.clone(),
            sectors: state.sectors,
            block_size: state.block_size,
            position: state.position,
            complete_through: state.complete_through,
            lives: lives.collect(),
            sizes: state.sizes.iter().copied().collect::<BTreeMap<_, _>>(),
            spans: spans.collect(),
            broken: state.broken.map(|broken| Broken {
                journal: broken.journal,
                number: broken.number,
                disk: state.disk,
                found: broken.found,
            }),
            level: state.level,
            requests,
            copies: state.copies.clone(),
        }
    }

    fn state(&self, disk: DiskId) -> DiskState {
        DiskState {
            disk,
            name: self.name.clone(),
            block_size: self.block_size,
            sectors: self.sectors,
            copies: self.copies.clone(),
            position: self.position,
            complete_through: self.complete_through,
            level: self.level,
            broken: self.broken.map(|broken| BrokenAt {
                journal: broken.journal,
                number: broken.number,
                found: broken.found,
            }),
            open_request: self.requests.open(),
            lives: self
                .lives
                .iter()
                .map(|life| (life.begun, life.ended))
                .collect(),
            sizes: self.sizes.iter().map(|(seq, size)| (*seq, *size)).collect(),
            spans: self
                .spans
                .iter()
                .map(|span| (span.from, span.through))
                .collect(),
        }
    }

    /// Adds requests of an older part of its history: what a later copy has taken back counts no more.
    fn add_requests(&mut self, marks: &[RequestMark]) {
        for mark in marks {
            let later = self.copies.get(mark.copy as usize..).unwrap_or_default();
            match later.iter().min() {
                Some(taken_back) if *taken_back <= mark.first => (),
                Some(taken_back) if *taken_back <= mark.last => {
                    let last = Seq(taken_back.0.saturating_sub(1));
                    self.requests.add(mark.first, last, false);
                }
                _ => self.requests.add(mark.first, mark.last, mark.ends),
            }
        }
    }
}
