//! Other people's software looks at what was restored: qemu-img at images, the kernel at devices.
//!
//! Needs `qemu-img`, `losetup` and the right to use loop devices.

#[path = "sample/images.rs"]
#[allow(
    dead_code,
    reason = "every test target uses its own part of the sample"
)]
mod images;
#[path = "sample/world.rs"]
#[allow(
    dead_code,
    reason = "every test target uses its own part of the sample"
)]
mod world;

use std::path::{Path, PathBuf};
use std::process::Command;

use everpoint_retention::{At, ImageFormat, OutputError, RestoreError, Subject};

use images::{entries, request, run};
use world::{World, memory_vault};

/// One test at a time: a program that one starts has for a moment all that this process has open, also a device that
/// only one may have.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a program that has to succeed, and gives what it prints.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said} {complained}"
    );
    said
}

/// A loop device over a file, given back when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(file: &Path) -> Self {
        let file = file.to_str().expect("ours is UTF-8");
        let path = output_of("losetup", &["--find", "--show", file]);
        Self(PathBuf::from(path.trim()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        output_of("losetup", &["--detach", self.0.to_str().expect("ASCII")]);
    }
}

/// A disk of 5 MiB and a few sectors with something at both ends.
async fn world() -> World {
    let mut world = World::new(memory_vault().await).await;
    world.add_disk("a", (5 << 11) + 3);
    world.write(0, 0, &[1; 3 * 512]);
    world.write(0, 2_000, &vec![2; 512 << 10]);
    world.write(0, (5 << 11) + 2, &[3; 512]);
    world.commit_all().await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_img_takes_the_vhd_and_finds_it_equal_to_the_raw_image() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let [raw, vhd] = ["disk.raw", "disk.vhd"].map(|name| directory.path().join(name));
    let subject = Subject::Disk(world.disks[0].id);
    run(&world.vault, &request(subject, At::Latest, &raw))
        .await
        .unwrap();
    let mut as_vhd = request(subject, At::Latest, &vhd);
    as_vhd.format = ImageFormat::Vhd;
    run(&world.vault, &as_vhd).await.unwrap();

    let (raw, vhd) = (raw.to_str().unwrap(), vhd.to_str().unwrap());
    let info = output_of("qemu-img", &["info", "--output=json", "-f", "vpc", vhd]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 6 << 20, "whole MiB");
    // Equal as far as the disk reaches; what pads the VHD is zero, which qemu-img takes as equal too.
    let said = output_of("qemu-img", &["compare", "-f", "raw", "-F", "vpc", raw, vhd]);
    assert!(said.contains("Images are identical."), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_overwritten_only_when_it_is_free_large_enough_and_named() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let [large, small] = ["large", "small"].map(|name| directory.path().join(name));
    std::fs::write(&large, vec![0xee; 8 << 20]).unwrap();
    std::fs::write(&small, vec![0xee; 4 << 20]).unwrap();
    let (device, small) = (LoopDevice::over(&large), LoopDevice::over(&small));
    let subject = Subject::Disk(world.disks[0].id);
    let refused = async |request| match run(&world.vault, &request).await {
        Err(RestoreError::Output(error)) => error,
        other => panic!("{other:?}"),
    };

    let mut to_device = request(subject, At::Latest, &device.0);
    to_device.overwrite = true;
    let error = refused(to_device.clone()).await;
    assert!(
        matches!(error, OutputError::DeviceNotForced { .. }),
        "{error}"
    );
    to_device.force_overwrite = Some(small.0.clone());
    let error = refused(to_device.clone()).await;
    assert!(
        matches!(error, OutputError::DeviceNotForced { .. }),
        "{error}"
    );

    let mut too_small = request(subject, At::Latest, &small.0);
    too_small.force_overwrite = Some(small.0.clone());
    let error = refused(too_small).await;
    assert!(matches!(error, OutputError::TooSmall { .. }), "{error}");

    to_device.force_overwrite = Some(device.0.clone());
    let mut as_vhd = to_device.clone();
    as_vhd.format = ImageFormat::Vhd;
    let error = refused(as_vhd).await;
    assert!(matches!(error, OutputError::VhdOnDevice { .. }), "{error}");
    let mut protected = to_device.clone();
    protected.sources = vec![device.0.clone()];
    let error = refused(protected).await;
    assert!(matches!(error, OutputError::IsSource { .. }), "{error}");

    let held = rustix::fs::open(
        &device.0,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    let error = refused(to_device.clone()).await;
    assert!(matches!(error, OutputError::InUse { .. }), "{error}");
    drop(held);

    // The file below the device is in use, too.
    let mut to_file = request(subject, At::Latest, &large);
    to_file.overwrite = true;
    let error = refused(to_file).await;
    assert!(matches!(error, OutputError::BacksLoop { .. }), "{error}");

    run(&world.vault, &to_device).await.unwrap();
    let bytes = std::fs::read(&device.0).unwrap();
    let expected = world.disks[0].bytes_at(world.seq);
    assert!(
        bytes[..expected.len()] == expected,
        "the disk, old bytes nowhere"
    );
    assert!(
        bytes[expected.len()..].iter().all(|&byte| byte == 0xee),
        "no byte behind it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_device_is_refused_with_the_place_where_it_is_mounted() {
    let _alone = ALONE.lock().await;
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filesystem");
    std::fs::write(&file, vec![0; 8 << 20]).unwrap();
    output_of("mkfs.ext4", &["-q", file.to_str().unwrap()]);
    let device = LoopDevice::over(&file);
    let point = directory.path().join("mounted here");
    std::fs::create_dir(&point).unwrap();
    let (on, at) = (device.0.to_str().unwrap(), point.to_str().unwrap());
    output_of("mount", &[on, at]);
    let mut request = request(Subject::Disk(world.disks[0].id), At::Latest, &device.0);
    request.force_overwrite = Some(device.0.clone());
    let outcome = run(&world.vault, &request).await;
    output_of("umount", &[at]);
    match outcome {
        Err(RestoreError::Output(OutputError::Mounted { at, .. })) => assert_eq!(at, point),
        other => panic!("{other:?}"),
    }
    assert_eq!(entries(&point), [""; 0], "unmounted");
}
