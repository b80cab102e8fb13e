//! Filesystems that cannot hold a vault.
//!
//! A vault needs that what was synced stays, that what was linked is seen by every process at once, and
//! that a link fails if the name exists, also when the answer to a first attempt was lost. Network
//! filesystems answer from caches, retransmit requests, and lose what a server had not written; so they are
//! refused by their number in `statfs(2)`.
//!
//! A filesystem in memory is not refused, only named in the log: tests and trials run on it.
//!
//! FUSE is not refused: it carries local filesystems too, and its number does not say which. Cluster
//! filesystems on shared disks (OCFS2, GFS2) keep the promises of a local one.

/// Numbers of `statfs(2)` and what they stand for. Sources: Linux `include/uapi/linux/magic.h`; where that has none,
/// the filesystem's own source, named behind the number.
const REFUSED: [(u32, &str); 14] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0000_564c, "NCP"),
    (0x0bd0_0bd0, "Lustre"),                    // lustre: LL_SUPER_MAGIC
    (0x2003_0528, "OrangeFS"),                  // fs/orangefs: ORANGEFS_SUPER_MAGIC
    (0x1983_0326, "BeeGFS"),                    // beegfs client: BEEGFS_MAGIC
    (0x786f_4256, "VirtualBox shared folders"), // fs/vboxsf: VBOXSF_SUPER_MAGIC
];

/// Filesystems in memory: what is synced there does not survive a power loss. Source: `magic.h`.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether nothing on this filesystem outlives the machine's power. `number` as for [`refused`].
pub(super) fn is_in_memory(number: impl TryInto<i64>) -> bool {
    low_word(number).is_some_and(|number| IN_MEMORY.contains(&number))
}

/// What the filesystem is, if it is refused. `number` is `f_type` of `statfs(2)`.
pub(super) fn refused(number: impl TryInto<i64>) -> Option<&'static str> {
    let number = low_word(number)?;
    let refused = REFUSED.iter().find(|(refused, _)| *refused == number);
    refused.map(|(_, filesystem)| *filesystem)
}

/// `f_type` is a signed word of the platform's size: only its low 32 bits are the number.
fn low_word(number: impl TryInto<i64>) -> Option<u32> {
    u32::try_from(number.try_into().ok()? & 0xffff_ffff).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_refused_however_the_word_is_signed() {
        assert_eq!(refused(0x6969_i64), Some("NFS"));
        assert_eq!(refused(0xff53_4d42_i64), Some("CIFS"));
        assert_eq!(refused(0xff53_4d42_u32.cast_signed()), Some("CIFS"));
        assert_eq!(refused(0xff53_4d42_u64), Some("CIFS"));
    }

    #[test]
    fn local_filesystems_are_not() {
        // ext4, XFS, btrfs, tmpfs, overlayfs, FUSE, as magic.h has them.
        for number in [
            0xef53_i64,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
            0x6573_5546,
        ] {
            assert_eq!(refused(number), None, "{number:x}");
            assert_eq!(is_in_memory(number), number == 0x0102_1994, "{number:x}");
        }
    }
}
