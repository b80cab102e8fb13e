//! The choice of files, and one small image that e2fsck reads.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::*;

fn tree(files: u32) -> Vec<Candidate> {
    let root = Path::new("/usr");
    let files = (0..files).map(|n| Candidate {
        path: root.join(format!("lib/file-{n}")),
        len: u64::from(n % 7 + 1) * BLOCK_LEN,
    });
    ranked(files.collect(), root)
}

fn len_of(files: &[Candidate]) -> u64 {
    files.iter().map(|file| file.len).sum()
}

fn paths(files: &[Candidate]) -> BTreeSet<PathBuf> {
    files.iter().map(|file| file.path.clone()).collect()
}

#[test]
fn the_choice_depends_on_names_and_not_on_the_order_of_the_folder() {
    let one = choose(tree(1000), 400 * BLOCK_LEN, Share(0));
    let mut shuffled = tree(1000);
    shuffled.reverse();
    let two = choose(
        ranked(shuffled, Path::new("/usr")),
        400 * BLOCK_LEN,
        Share(0),
    );
    assert_eq!(one, two);
    assert_eq!(len_of(&one), 400 * BLOCK_LEN);
}

#[test]
fn the_root_of_the_tree_does_not_change_the_choice() {
    let files = |root: &str| -> Vec<Candidate> {
        let files = (0..50).map(|n| Candidate {
            path: Path::new(root).join(format!("file-{n}")),
            len: BLOCK_LEN,
        });
        let ranked = ranked(files.collect(), Path::new(root));
        choose(ranked, 20 * BLOCK_LEN, Share(0))
    };
    let names = |files: Vec<Candidate>| -> Vec<_> {
        let names = files.iter().map(|file| file.path.file_name().unwrap());
        names.map(ToOwned::to_owned).collect()
    };
    assert_eq!(names(files("/usr")), names(files("/opt/other")));
}

#[test]
fn another_machine_shares_what_it_was_told_to_share() {
    let first = choose(tree(1000), 1000 * BLOCK_LEN, Share(0));
    let second = choose(tree(1000), 1000 * BLOCK_LEN, Share(200));
    let common: Vec<Candidate> = first
        .iter()
        .filter(|file| paths(&second).contains(&file.path))
        .cloned()
        .collect();
    let shared = len_of(&common) / BLOCK_LEN;
    assert!(
        (793..=800).contains(&shared),
        "{shared} blocks of 1000 are shared"
    );
    assert!(len_of(&second) <= 1000 * BLOCK_LEN);
    assert!(993 * BLOCK_LEN <= len_of(&second));
}

#[test]
fn a_share_is_a_decimal_from_0_to_1() {
    assert_eq!("0.70".parse(), Ok(Share(700)));
    assert_eq!("0.7".parse(), Ok(Share(700)));
    assert_eq!("1".parse(), Ok(Share(1000)));
    assert_eq!("0.005".parse(), Ok(Share(5)));
    for refused in [
        "", ".", "1.001", "2", "-0.1", "0.0001", "70%", "0.7.0", "+0.1",
    ] {
        assert!(refused.parse::<Share>().is_err(), "{refused}");
    }
    assert_eq!(Share(700).of(10_000), 7000);
    assert_eq!(Share(1000).of(u64::MAX), u64::MAX);
}

#[test]
fn an_image_is_dense_and_holds_a_clean_filesystem_with_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tree");
    fs::create_dir_all(root.join("deep/er")).unwrap();
    for n in 1..=40 {
        let name = format!("deep/er/file-{n}");
        fs::write(root.join(name), vec![n; 300_000]).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
    let spec = ImageSpec {
        fill: Share(300),
        root: root.clone(),
        ..ImageSpec::new(folder.path().join("image"), 32)
    };
    let made = make(&spec).unwrap();
    assert_eq!((made.files, made.unreadable), (33, 0));

    let metadata = fs::metadata(&spec.out).unwrap();
    assert_eq!(metadata.len(), 32 << 20);
    assert!(32 << 20 <= metadata.blocks() * 512, "it has holes");
    let check = Command::new(run::find("e2fsck").unwrap())
        .arg("-fn")
        .arg(&spec.out)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let root = fs::canonicalize(&root).unwrap();
    let all = ranked(candidates(&root).unwrap(), &root);
    for file in choose(all, Share(300).of(32 << 20), Share(0)) {
        let held = Command::new(run::find("debugfs").unwrap())
            .arg("-R")
            .arg(format!("cat {}", file.path.display()))
            .arg(&spec.out)
            .output()
            .unwrap();
        let is_held = held.stdout == fs::read(&file.path).unwrap();
        assert!(is_held, "{} is not in it", file.path.display());
    }
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "the stage was not removed");
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let good = ImageSpec {
        root: folder.path().to_path_buf(),
        ..ImageSpec::new(folder.path().join("image"), 64)
    };
    let too_full = ImageSpec {
        fill: Share(950),
        ..good.clone()
    };
    let too_small = ImageSpec {
        mib: 1,
        ..good.clone()
    };
    for (spec, why) in [
        (too_full, "up to a share of 0.900"),
        (too_small, "at least 16 MiB"),
        (good, "choose a larger --root"),
    ] {
        let error = make(&spec).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
