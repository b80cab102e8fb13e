//! Messages read back as they were sent; hostile ones are refused.

use proptest::prelude::*;

use super::*;

const POSITION: DiskPosition = DiskPosition {
    generation: GenerationId([4; 16]),
    block_no: BlockNo(9),
    chain: ChainValue(0xfeed),
};

fn to_server() -> Vec<ToServer> {
    vec![
        ToServer::Hello(Hello {
            protocol: 1,
            machine: MachineId([1; 16]),
            highest_epoch: Level(7),
            vault: Some(VaultId([2; 16])),
            clock: WallTime(1_767_225_600_000_000),
            disk_count: 3,
        }),
        ToServer::OpenDisk {
            disk: DiskId([3; 16]),
        },
        ToServer::Compare(Compare {
            request: 5,
            first_piece: 1 << 40,
            digests: vec![PlainDigest([6; 32]), PlainDigest([7; 32])],
        }),
    ]
}

fn to_agent() -> Vec<ToAgent> {
    let state = DiskState {
        disk: DiskId([3; 16]),
        committed: None,
        cached: Some(POSITION),
        complete_through: Seq(12),
        level: true,
    };
    vec![
        ToAgent::HelloAnswer(HelloAnswer {
            protocol: 1,
            vault: VaultId([2; 16]),
            journal: JournalId {
                level: Level(7),
                random: [8; 16],
            },
            highest_seq: Seq(99),
            clock: WallTime(1_767_225_600_000_000),
            disks: vec![state],
        }),
        ToAgent::Refusal {
            reason: RefusalReason::NotOwner,
            text: "elsewhere".to_owned(),
        },
        ToAgent::DiskState(state),
        ToAgent::Watermarks(Watermarks {
            generation: GenerationId([4; 16]),
            cached: BlockNo(8),
            committed: BlockNo(7),
            committed_cut: Seq(70),
            epoch: Level(7),
        }),
        ToAgent::Refused {
            reason: RefuseReason::Gap,
            tail: Some(POSITION),
        },
        ToAgent::Differences {
            request: 5,
            differs: Bytes::from_static(&[1, 2]),
        },
    ]
}

#[test]
fn what_is_sent_reads_back() {
    for message in to_server() {
        assert_eq!(ToServer::decode(message.encode()), Ok(message));
    }
    for message in to_agent() {
        assert_eq!(ToAgent::decode(message.encode()), Ok(message));
    }
}

#[test]
fn a_field_that_breaks_its_rule_is_refused_by_name() {
    let refused = |message: pb::to_server::Message| {
        let message = Some(message);
        let bytes = pb::ToServer { message }.encode_to_vec();
        match ToServer::decode(bytes.into()) {
            Err(WireError::Field { field, .. }) => field,
            other => panic!("not refused for a field: {other:?}"),
        }
    };
    let hello = pb::Hello {
        machine: vec![1; 16].into(),
        ..pb::Hello::default()
    };
    use pb::to_server::Message as M;
    assert_eq!(
        refused(M::Hello(pb::Hello {
            machine: vec![1; 15].into(),
            ..hello.clone()
        })),
        "machine"
    );
    assert_eq!(
        refused(M::Hello(pb::Hello {
            disk_count: u32::MAX,
            ..hello
        })),
        "disk_count"
    );
    for digests in [0, 31, 32 * (COMPARE_PIECES_MAX + 1)] {
        let compare = pb::Compare {
            digests: vec![0; digests].into(),
            ..pb::Compare::default()
        };
        assert_eq!(refused(M::Compare(compare)), "digests");
    }
}

#[test]
fn an_empty_message_is_unknown_and_garbage_is_malformed() {
    assert_eq!(
        ToServer::decode(Bytes::new()),
        Err(WireError::Unknown {
            what: "message to the server"
        })
    );
    assert!(matches!(
        ToAgent::decode(Bytes::from_static(&[0xff; 9])),
        Err(WireError::Malformed { .. })
    ));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let body = Bytes::from(body);
        // Whatever decodes encodes to something that decodes to the same.
        if let Ok(message) = ToServer::decode(body.clone()) {
            prop_assert_eq!(ToServer::decode(message.encode()), Ok(message));
        }
        if let Ok(message) = ToAgent::decode(body) {
            prop_assert_eq!(ToAgent::decode(message.encode()), Ok(message));
        }
    }
}
