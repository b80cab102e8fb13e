//! The accounting of disk space, and what to do next about files: decisions only, no file is touched
//! here.
//!
//! What all files take together never exceeds the quota. The reserve is the part of it that only a
//! boot without a file of its own may take, while earlier boots fill the rest: its first file.

use std::collections::{BTreeMap, VecDeque};

use everpoint_format::cache_log::LogFileNo;
use everpoint_marks::reached;

use crate::LogPosition;
use crate::recovery::LiveFile;

/// Files with a header that wait for records. Two, so that a file that fills up while its successor
/// is being made does not stop the log.
const READY_COUNT: usize = 2;

/// Bounds of the space, from the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) file_len: u64,
    pub(crate) quota: u64,
    pub(crate) reserve: u64,
    pub(crate) spare_count_max: usize,
}

/// What lies in the directory, and what is settled.
#[derive(Debug)]
pub(crate) struct Space {
    bounds: Bounds,
    /// Bytes that all files take, files being made included.
    used: u64,
    /// Files that hold records, or did until they are retired.
    pub(crate) live: BTreeMap<LogFileNo, LiveFile>,
    /// Files that can take a header.
    pub(crate) spares: VecDeque<u64>,
    /// How many files with a header wait.
    pub(crate) ready_count: usize,
    /// The first file number of this boot; smaller ones are earlier boots'.
    first_own: LogFileNo,
    next_file: LogFileNo,
    next_spare: u64,
    /// The newest file with a synced record; older ones take no more.
    active: Option<LogFileNo>,
    /// Every record up to here is settled.
    settled: Option<LogPosition>,
    /// The file system refused; nothing is created until it is asked again.
    is_denied: bool,
}

/// One step of file keeping. Steps are done one after the other, and told to
/// [`Space`] when they are durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FileTask {
    /// Everything in it is settled: make it a spare.
    Recycle { file: LogFileNo, spare: u64 },
    /// Everything in it is settled, and no more spares are wanted.
    Remove { file: LogFileNo },
    /// More spares than are wanted.
    RemoveSpare { spare: u64 },
    /// Give a spare a header and a number.
    Head { spare: u64, file: LogFileNo },
    /// Make and zero a spare. Its space is taken from now on.
    Create { spare: u64 },
}

impl Space {
    /// The space after recovery.
    pub(crate) fn new(
        bounds: Bounds,
        live: BTreeMap<LogFileNo, LiveFile>,
        spares: Vec<u64>,
        next_file: LogFileNo,
        next_spare: u64,
    ) -> Self {
        let recovered: u64 = live.values().map(|file| file.len).sum();
        Self {
            bounds,
            used: recovered + spares.len() as u64 * bounds.file_len,
            live,
            spares: spares.into(),
            ready_count: 0,
            first_own: next_file,
            next_file,
            next_spare,
            active: None,
            settled: None,
            is_denied: false,
        }
    }

    /// Bytes that all files take.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Notes that everything up to `position` is settled.
    pub(crate) fn settle(&mut self, position: LogPosition) {
        self.settled = self.settled.max(Some(position));
    }

    /// Whether a settled file waits to be retired.
    pub(crate) fn has_retirable(&self) -> bool {
        self.retirable().is_some()
    }

    /// Notes that a record was synced in `file`: the files before it are complete.
    pub(crate) fn activate(&mut self, file: LogFileNo) {
        self.active = self.active.max(Some(file));
    }

    /// The next step, if any. `Create` and `Head` take their numbers at once.
    pub(crate) fn plan(&mut self) -> Option<FileTask> {
        if let Some(file) = self.retirable() {
            let len = self.live[&file].len;
            let unready_count = READY_COUNT.saturating_sub(self.ready_count);
            let is_wanted = self.spares.len() < self.bounds.spare_count_max + unready_count;
            return Some(
                if is_wanted && !self.is_over() && len == self.bounds.file_len {
                    let spare = self.take_spare_number();
                    FileTask::Recycle { file, spare }
                } else {
                    FileTask::Remove { file }
                },
            );
        }
        if self.ready_count < READY_COUNT && !self.is_denied {
            if let Some(spare) = self.spares.pop_front() {
                let file = self.next_file;
                self.next_file = file.next();
                return Some(FileTask::Head { spare, file });
            }
            if 0 < self.creatable_count() {
                self.used += self.bounds.file_len;
                let spare = self.take_spare_number();
                return Some(FileTask::Create { spare });
            }
        }
        if self.bounds.spare_count_max < self.spares.len() || self.is_over() {
            let spare = self.spares.pop_back()?;
            return Some(FileTask::RemoveSpare { spare });
        }
        None
    }

    /// A step was done, durably.
    pub(crate) fn done(&mut self, task: FileTask) {
        match task {
            FileTask::Recycle { file, spare } => {
                reached!(FileUsedAgain);
                self.live.remove(&file);
                self.spares.push_back(spare);
            }
            FileTask::Remove { file } => {
                let len = self.live.remove(&file).map_or(0, |file| file.len);
                self.used -= len;
                self.is_denied = false;
            }
            FileTask::RemoveSpare { .. } => {
                self.used -= self.bounds.file_len;
                self.is_denied = false;
            }
            FileTask::Head { .. } => self.ready_count += 1,
            FileTask::Create { spare } => self.spares.push_back(spare),
        }
    }

    /// A step could not be done for want of space, and left nothing behind.
    pub(crate) fn denied(&mut self, task: FileTask) {
        reached!(FileRefused);
        match task {
            FileTask::Create { .. } => self.used -= self.bounds.file_len,
            FileTask::Head { spare, .. } => self.spares.push_front(spare),
            FileTask::Recycle { .. } | FileTask::Remove { .. } | FileTask::RemoveSpare { .. } => {}
        }
        self.is_denied = true;
    }

    /// Whether the file system refused and was not asked again.
    pub(crate) fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// Ask the file system again.
    pub(crate) fn retry(&mut self) {
        self.is_denied = false;
    }

    /// Whether a file takes no more records.
    pub(crate) fn is_complete(&self, file: LogFileNo) -> bool {
        file < self.first_own || self.active.is_some_and(|active| file < active)
    }

    /// How many more files may come into use than those that are ready: spares and new ones.
    pub(crate) fn obtainable_count(&self) -> u64 {
        self.spares.len() as u64 + self.creatable_count()
    }

    fn creatable_count(&self) -> u64 {
        if self.is_denied {
            return 0;
        }
        let is_own = |no: &LogFileNo| self.first_own <= *no;
        let has_own = 0 < self.ready_count || self.live.keys().any(is_own);
        let has_recovered = !self.live.keys().all(is_own);
        let limit = if has_recovered && !has_own {
            self.bounds.quota
        } else {
            self.bounds.quota - self.bounds.reserve
        };
        limit.saturating_sub(self.used) / self.bounds.file_len
    }

    /// Whether the files take from the reserve, or more than a quota that was lowered.
    fn is_over(&self) -> bool {
        self.bounds.quota - self.bounds.reserve < self.used
    }

    /// The oldest file, if all it holds is settled and it takes no more. Files go strictly in order,
    /// so that what a crash leaves of a boot begins at some file and misses none after it.
    fn retirable(&self) -> Option<LogFileNo> {
        let (&file, live) = self.live.first_key_value()?;
        let is_settled = live.last_block.is_none_or(|offset| {
            self.settled
                .is_some_and(|settled| LogPosition::new(file, offset) <= settled)
        });
        (is_settled && self.is_complete(file)).then_some(file)
    }

    fn take_spare_number(&mut self) -> u64 {
        let spare = self.next_spare;
        self.next_spare += 1;
        spare
    }
}

#[cfg(test)]
mod tests {
    use everpoint_units::ByteOffset;

    use super::*;

    const LEN: u64 = 100;

    fn space(quota: u64, recovered: u64) -> Space {
        let bounds = Bounds {
            file_len: LEN,
            quota,
            reserve: LEN,
            spare_count_max: 1,
        };
        let live = (1..=recovered)
            .map(|no| (LogFileNo(no), live(50)))
            .collect();
        Space::new(bounds, live, Vec::new(), LogFileNo(recovered + 1), 1)
    }

    fn live(last_block: u64) -> LiveFile {
        LiveFile {
            header: None,
            len: LEN,
            readable: LEN,
            last_block: Some(ByteOffset(last_block)),
            has_gaps: false,
        }
    }

    fn at(file: u64, offset: u64) -> LogPosition {
        LogPosition::new(LogFileNo(file), ByteOffset(offset))
    }

    /// Does every step that is wanted, and returns them.
    fn settle_down(space: &mut Space) -> Vec<FileTask> {
        let mut tasks = Vec::new();
        while let Some(task) = space.plan() {
            space.done(task);
            assert!(space.used() <= space.bounds.quota, "{task:?}");
            tasks.push(task);
        }
        tasks
    }

    /// The log takes a ready file and fills it.
    fn fill(space: &mut Space, file: u64) {
        space.ready_count -= 1;
        space.live.insert(LogFileNo(file), live(50));
        space.activate(LogFileNo(file));
    }

    #[test]
    fn a_new_log_prepares_two_files_and_never_passes_the_quota_less_the_reserve() {
        let mut space = space(5 * LEN, 0);
        assert_eq!(settle_down(&mut space).len(), 4);
        assert_eq!((space.ready_count, space.used()), (2, 2 * LEN));
        for file in 1..=4 {
            fill(&mut space, file);
            settle_down(&mut space);
        }
        assert_eq!((space.ready_count, space.used()), (0, 4 * LEN));
        assert_eq!(space.obtainable_count(), 0);
    }

    #[test]
    fn a_boot_that_finds_the_rest_full_may_take_one_file_from_the_reserve() {
        let mut space = space(5 * LEN, 4);
        settle_down(&mut space);
        assert_eq!((space.ready_count, space.used()), (1, 5 * LEN));
        space.bounds.spare_count_max = 9;
        space.settle(at(4, 50));
        settle_down(&mut space);
        assert!(space.used() <= 4 * LEN, "the reserve is given back");
    }

    #[test]
    fn a_quota_that_was_lowered_is_kept_again_as_soon_as_files_can_go() {
        let mut space = space(4 * LEN, 9);
        space.bounds.spare_count_max = 9;
        assert_eq!(space.plan(), None);
        space.settle(at(9, 50));
        while let Some(task) = space.plan() {
            space.done(task);
        }
        assert!(space.used() <= 3 * LEN);
    }

    #[test]
    fn settled_files_are_used_again_in_order_and_the_active_one_stays() {
        let mut space = space(5 * LEN, 0);
        settle_down(&mut space);
        fill(&mut space, 1);
        settle_down(&mut space);
        fill(&mut space, 2);
        settle_down(&mut space);
        space.settle(at(2, 50));
        let tasks = settle_down(&mut space);
        let recycled = |task: &FileTask| matches!(task, FileTask::Recycle { file, .. } if *file == LogFileNo(1));
        assert_eq!(tasks.iter().filter(|task| recycled(task)).count(), 1);
        assert_eq!(space.live.keys().collect::<Vec<_>>(), [&LogFileNo(2)]);
    }

    #[test]
    fn a_file_with_one_unsettled_record_keeps_itself_and_all_younger_ones() {
        let mut space = space(9 * LEN, 3);
        space.settle(at(1, 49));
        settle_down(&mut space);
        assert_eq!(space.live.len(), 3);
        space.settle(at(1, 50));
        settle_down(&mut space);
        assert_eq!(space.live.len(), 2);
        space.settle(at(1, 10));
        space.settle(at(3, 50));
        settle_down(&mut space);
        assert_eq!(space.live.len(), 0);
    }

    #[test]
    fn more_spares_than_wanted_are_removed() {
        let mut space = space(9 * LEN, 8);
        settle_down(&mut space);
        space.settle(at(8, 50));
        settle_down(&mut space);
        assert_eq!((space.ready_count, space.spares.len()), (2, 1));
        assert_eq!(space.used(), 3 * LEN);
    }

    #[test]
    fn a_full_file_system_is_not_asked_again_until_told_so() {
        let mut space = space(5 * LEN, 0);
        let task = space.plan().expect("a file to make");
        space.denied(task);
        assert_eq!((space.plan(), space.used()), (None, 0));
        space.retry();
        assert!(matches!(space.plan(), Some(FileTask::Create { .. })));
    }

    #[test]
    fn files_of_another_length_are_removed_rather_than_used_again() {
        let mut space = space(9 * LEN, 1);
        let old = space.live.get_mut(&LogFileNo(1)).expect("recovered");
        old.len = LEN / 2;
        space.settle(at(1, 50));
        assert_eq!(space.plan(), Some(FileTask::Remove { file: LogFileNo(1) }));
    }
}
