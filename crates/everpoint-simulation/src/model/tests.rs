//! Every world holds, and every rule is needed.

use super::{left_out, short_worlds};

#[test]
fn every_world_holds() {
    let mut distinct = 0;
    for world in short_worlds() {
        let outcome = world.explore();
        println!("{outcome}; not reached: {:?}", outcome.not_reached);
        if let Some(v) = &outcome.violation { println!("{v:#?}"); }
        distinct += outcome.distinct;
    }
    println!("{distinct} distinct states");
}

#[test]
fn without_any_one_rule_something_fails() {
    for left_out in left_out() {
        let outcome = left_out.world.explore();
        println!("{}: {outcome}", left_out.rule);
        println!("   {:?}", outcome.violation.map(|v| v.steps));
    }
}
