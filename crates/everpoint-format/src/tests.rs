//! What every format's tests share: golden files, flipped bits, short reads.

use std::path::Path;

/// Compares `bytes` with the golden file. A missing file is written when the variable
/// `EVERPOINT_WRITE_GOLDEN` is set, once, on the first day of a format version.
pub(crate) fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name);
    if std::env::var_os("EVERPOINT_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().expect("testdata")).expect("testdata can be made");
        std::fs::write(&path, bytes).expect("the golden file can be written");
    }
    let stored = std::fs::read(&path).expect("the golden file is committed");
    assert!(stored == bytes, "{name} is not what this build writes");
}

/// Flips each bit of `bytes` in turn; each must be refused.
pub(crate) fn every_flip_is_refused(bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&flipped), "bit {bit} flipped unnoticed");
    }
}

/// Cuts `bytes` at each length, and adds a byte; each must be refused.
pub(crate) fn every_truncation_is_refused(bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
    for len in 0..bytes.len() {
        assert!(refused(&bytes[..len]), "cut to {len} bytes unnoticed");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(refused(&longer), "a byte more unnoticed");
}
