//! The steps of a boot, in their order.

use super::*;

fn journal(level: u64, random: u8) -> JournalId {
    JournalId {
        level: Level(level),
        random: [random; 16],
    }
}

#[test]
fn the_own_journal_is_above_the_vaults_and_the_servers_own_and_noted_before_it_is_named() {
    for (vault, own, level) in [(7, 3, 8), (2, 9, 10)] {
        let mut boot = BootCore::new(&[journal(own, 1)]);
        assert_eq!(boot.step(), BootStep::ListJournals);
        boot.handle_listed(&[journal(vault, 2), journal(1, 3)], [4; 16]);
        let new = journal(level, 4);
        assert_eq!(boot.step(), BootStep::Note { journal: new });
    }
}

#[test]
fn the_log_is_recovered_first_then_every_earlier_journal_is_sealed_and_only_then_forgotten() {
    let (one, two, new) = (journal(1, 1), journal(2, 2), journal(3, 3));
    let mut boot = BootCore::new(&[one, two]);
    boot.handle_listed(&[one, two], [3; 16]);
    let mut steps = Vec::new();
    while !matches!(boot.step(), BootStep::Serve { .. }) {
        boot.handle_done();
        steps.push(boot.step());
    }
    let seal = |earlier| BootStep::Seal {
        earlier,
        successor: new,
    };
    assert_eq!(
        steps,
        [
            BootStep::RecoverLog { journal: new },
            seal(one),
            seal(two),
            BootStep::Forget { all_but: new },
            BootStep::TakeUp { journal: new },
            BootStep::Serve { journal: new },
        ]
    );
}

#[test]
fn a_first_boot_seals_nothing() {
    let mut boot = BootCore::new(&[]);
    boot.handle_listed(&[], [1; 16]);
    assert_eq!(
        boot.step(),
        BootStep::Note {
            journal: journal(1, 1)
        }
    );
    boot.handle_done();
    boot.handle_done();
    assert_eq!(
        boot.step(),
        BootStep::Forget {
            all_but: journal(1, 1)
        }
    );
}
