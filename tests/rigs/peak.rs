//! How much memory a process had at most since it was last asked to forget.
//!
//! Linux keeps the largest resident set of a process (`VmHWM` in `/proc/PID/status`, proc(5)): everything
//! that is mapped and in memory, also pages of the program's own file, so a bound on it is a bound on what
//! the program allocates. Writing 5 to `/proc/PID/clear_refs` sets it to what is resident now.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};

/// Unit: bytes.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Most that was resident.
    pub resident_max: u64,
    /// What is resident and no page of a file now.
    pub anonymous: u64,
}

impl Peak {
    /// Since the process began, or [`Peak::forget`].
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn of(process: u32) -> Result<Self> {
        let path = format!("/proc/{process}/status");
        let status = fs::read_to_string(&path).context(path)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim_end_matches(" kB").trim().parse::<u64>().ok());
            kib.map(|kib| kib << 10).with_context(|| name.to_owned())
        };
        Ok(Self {
            resident_max: field("VmHWM:")?,
            anonymous: field("RssAnon:")?,
        })
    }

    /// What was before counts no more.
    ///
    /// # Errors
    ///
    /// When there is no such process, or it is not one's own.
    pub fn forget(process: u32) -> Result<()> {
        let path = format!("/proc/{process}/clear_refs");
        fs::write(&path, "5").context(path)
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most, anonymous) = (self.resident_max >> 20, self.anonymous >> 20);
        write!(
            f,
            "{most} MiB at most ({anonymous} of it anonymous at the end)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_counts_until_it_is_forgotten() {
        // Far more than the tests beside this one touch; the kernel's counters lag by a few pages.
        let (len, most) = (256 << 20, 128 << 20);
        let me = std::process::id();
        let before = Peak::of(me).unwrap().resident_max;
        let touched = vec![1_u8; len];
        assert_eq!(std::hint::black_box(&touched)[9], 1);
        assert!(most < Peak::of(me).unwrap().anonymous);
        drop(touched);
        let with = Peak::of(me).unwrap().resident_max;
        assert!(before + most < with, "{before}, {with}");
        Peak::forget(me).unwrap();
        let after = Peak::of(me).unwrap().resident_max;
        assert!(after + most < with, "{after}, {with}");
    }
}
