//! What do framing, budget, deadlines and the contiguous copy cost on top of bare quinn?
//!
//! Sketch: quinn at MTU 1452 costs 0.6 s/GB at each end. One copy of received bytes costs 0.09 s/GB;
//! a header, a charge and a deadline for each MiB cost nothing that can be seen. So at least 0.85 of
//! the bare rate is expected.
//!
//! One stream of 1 MiB frames, the two in turn, medians. `cargo xtask bench link -- [--runs N] [--mib N]
//! [--mtu N] [--window KIB]`

use everpoint_benches::flags::{is_brief, number};
use everpoint_benches::quic::{Sample, Setup, bare, framed};

fn main() {
    let brief = is_brief();
    let (runs, mib) = if brief { (1, 16) } else { (5, 2_048) };
    let (runs, mib) = (number("--runs", runs), number("--mib", mib));
    let mtu = u16::try_from(number("--mtu", 1_452)).expect("a datagram");
    let window = u32::try_from(number("--window", 1_024) * 1_024).expect("a window");
    let setup = Setup::new(mib, mtu, window);
    type Run = fn(&Setup) -> Sample;
    let kinds: [(&str, Run); 2] = [("bare quinn", bare), ("everpoint", framed)];
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..=runs {
        for ((_, run), samples) in kinds.iter().zip(&mut samples) {
            let sample = run(&setup);
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    println!("{mib} MiB a run, {runs} runs in turn after a warm-up, MTU {mtu}, medians (range)");
    for ((name, _), samples) in kinds.iter().zip(&samples) {
        let of = |field: fn(&Sample) -> f64| spread(samples, field);
        let (rate, send, receive) = (
            of(|s| s.gb_per_s),
            of(|s| s.send_s_per_gb),
            of(|s| s.receive_s_per_gb),
        );
        let lost: u64 = samples.iter().map(|s| s.packets_lost).sum();
        println!(
            "{name:<10}  {:.2} GB/s ({:.2} to {:.2})  CPU s/GB: send {:.3}, receive {:.3}  lost {lost}",
            rate.1, rate.0, rate.2, send.1, receive.1
        );
    }
    let ratio =
        |field: fn(&Sample) -> f64| spread(&samples[1], field).1 / spread(&samples[0], field).1;
    println!(
        "ratio to bare quinn: rate {:.3}, CPU send {:.3}, CPU receive {:.3}",
        ratio(|s| s.gb_per_s),
        ratio(|s| s.send_s_per_gb),
        ratio(|s| s.receive_s_per_gb)
    );
}

/// Lowest, median, highest.
fn spread(samples: &[Sample], field: fn(&Sample) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = samples.iter().map(field).collect();
    values.sort_by(f64::total_cmp);
    (
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    )
}
