//! How near do the requests that are planned for a page blob come to the fewest and shortest that there could be, and
//! what does the planning cost?
//!
//! Sketch: a page blob takes 500 requests and 60 MiB a second, so a request is worth 123 KiB, and puts of 256 KiB or
//! more are bound by bytes, not by requests. The plan is a shortest path with one thing left out: short gaps between
//! needs of one kind are always filled. That may cost a sixteenth of each request; 1.2 is what is allowed of requests,
//! and of bytes, against a search that leaves out nothing, for the same windows. Where one is bought with the other,
//! either may lie below 1. A plan is made once a window, so milliseconds are fine.
//!
//! The loads are in `page_loads.rs`, the search is in `page_optimum.rs`. `cargo xtask bench page_plan`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group};
use everpoint_benches::flags::is_brief;
use everpoint_benches::page_loads::{Window, mixed, small};
use everpoint_benches::page_optimum::{Bill, cheapest};
use everpoint_reduction::{Costs, RunMap, plan};

/// A page blob's: 500 requests and 60 MiB a second, puts of 4 MiB.
const BLOB: Costs = Costs {
    request: (60 << 20) / 500,
    read: (60 << 20) / 500,
    put_sectors_max: (4 << 20) / 512,
};
/// What is allowed of requests and of bytes, of those of the cheapest plan.
const RATIO_MAX: f64 = 1.2;
/// What puts of small writes have to be at least. Unit: bytes.
const PUT_LEN_MEAN_MIN: u64 = 256 << 10;

type Load = (&'static str, fn(u64, u64) -> Window, u64);

/// Each with the length of its windows. Unit: seconds.
const LOADS: [Load; 3] = [
    ("small, 60 s", small, 60),
    ("mixed, 60 s", mixed, 60),
    ("mixed, 5 s", mixed, 5),
];

fn main() {
    figures();
    plans();
    Criterion::default().configure_from_args().final_summary();
}

/// Plans against the cheapest, and says so before anything is timed.
fn figures() {
    let windows = if is_brief() { 1 } else { 5 };
    println!(
        "sums of {windows} windows, requests with reads of gaps; in brackets of the cheapest plan's"
    );
    for (name, load, seconds) in LOADS {
        for at_hand in [false, true] {
            let (mut planned, mut best) = (Bill::default(), Bill::default());
            let mut written = 0;
            for seed in 1..=windows {
                let window = load(seed, seconds);
                let needs = window.needs();
                let known = if at_hand {
                    window.all_known()
                } else {
                    RunMap::<()>::new()
                };
                add(&mut planned, Bill::of(&plan(&needs, &known, &BLOB)));
                add(&mut best, cheapest(&needs, at_hand, &BLOB));
                written += window.written;
            }
            let gaps = if at_hand { "at hand" } else { "not at hand" };
            tell(&format!("{name}, gaps {gaps}"), written, &planned, &best);
        }
    }
}

fn add(sum: &mut Bill, bill: Bill) {
    sum.puts += bill.puts;
    sum.clears += bill.clears;
    sum.reads += bill.reads;
    sum.bytes += bill.bytes;
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

fn tell(name: &str, written: u64, planned: &Bill, best: &Bill) {
    let requests = ratio(planned.requests(), best.requests());
    let bytes = ratio(planned.bytes, best.bytes);
    let cost = ratio(planned.cost(&BLOB), best.cost(&BLOB));
    println!(
        "{name:<28} written {} MiB  puts {} clears {} reads {} ({requests:.3})  bytes {} MiB ({bytes:.3})  \
         cost ({cost:.4})  mean put {} KiB",
        written >> 20,
        planned.puts,
        planned.clears,
        planned.reads,
        planned.bytes >> 20,
        planned.put_len_mean() >> 10,
    );
    assert!(requests <= RATIO_MAX, "{name}: requests {requests}");
    assert!(bytes <= RATIO_MAX, "{name}: bytes {bytes}");
    assert!(1.0 <= cost, "{name}: cheaper than the cheapest");
    if name.starts_with("small") {
        let mean = planned.put_len_mean();
        assert!(PUT_LEN_MEAN_MIN <= mean, "{name}: {mean} bytes a put");
    }
}

fn time(c: &mut Criterion) {
    for (name, load, seconds) in LOADS {
        let window = load(1, seconds);
        let needs = window.needs();
        let known = window.all_known();
        let mut group = c.benchmark_group(format!("page plan, {name}"));
        group.throughput(Throughput::Bytes(window.written));
        group.sample_size(20);
        group.bench_function("gather the needs", |b| {
            b.iter(|| black_box(&window).needs());
        });
        group.bench_function("plan, gaps not at hand", |b| {
            b.iter(|| plan(black_box(&needs), &RunMap::<()>::new(), &BLOB));
        });
        group.bench_function("plan, gaps at hand", |b| {
            b.iter(|| plan(black_box(&needs), black_box(&known), &BLOB));
        });
        group.finish();
    }
}

criterion_group!(plans, time);
