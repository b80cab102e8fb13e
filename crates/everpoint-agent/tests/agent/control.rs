//! What the command line can ask, and what it finds after a restart.

use everpoint_transport::control::call;
use everpoint_wire::CONTROL_LEN_MAX;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use everpoint_wire::control::{
    AttachDisk, ControlAnswer, ControlRequest, CreatePoint, DetachDisk, StatusRequest, TakeOver,
};
use prost::Message as _;

use crate::fake_server::Manner;
use crate::workshop::{MIB, Workshop, disk, disk_id, in_time};

async fn ask(shop: &Workshop, request: Request) -> Answer {
    let request = Some(request);
    let request = ControlRequest { request }.encode_to_vec();
    let socket = shop.path("control");
    let answer = call(&socket, &request, CONTROL_LEN_MAX);
    let answer = in_time(answer).await.expect("answered");
    let answer = ControlAnswer::decode(answer).expect("an answer");
    answer.answer.expect("with content")
}

fn attach(shop: &Workshop, number: u8, file: &str) -> Request {
    Request::Attach(AttachDisk {
        disk: disk_id(number).0.to_vec().into(),
        name: format!("disk{number}"),
        source: shop.file(file, MIB).to_str().expect("plain").to_owned(),
        block_size: 0,
    })
}

fn detach(number: u8, end: bool) -> Request {
    Request::Detach(DetachDisk {
        disk: disk_id(number).0.to_vec().into(),
        end,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_come_and_go_while_the_agent_runs_and_stay_so_after_a_restart() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", MIB);
    let agent = shop.start(vec![disk(1, &file)]).await;
    for number in 2..14 {
        // More than were announced: the session begins anew, and nobody notices.
        let answer = ask(&shop, attach(&shop, number, &format!("file{number}"))).await;
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }
    in_time(agent.wait_protected()).await;
    assert_eq!(agent.status().disks.len(), 13);
    let again = ask(&shop, attach(&shop, 2, "elsewhere")).await;
    assert!(matches!(again, Answer::Failure(failure) if failure.text.contains("attached already")));

    let answer = ask(&shop, detach(1, true)).await;
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    assert_eq!(
        shop.server.disk(disk_id(1), |store| store.ended),
        Some(true)
    );
    let answer = ask(&shop, detach(3, false)).await;
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    let unknown = ask(&shop, detach(3, false)).await;
    assert!(matches!(unknown, Answer::Failure(failure) if !failure.remedy.is_empty()));
    agent.kill().await;

    let agent = shop.start(vec![disk(1, &file)]).await;
    let names: Vec<String> = agent
        .status()
        .disks
        .into_iter()
        .map(|disk| disk.name)
        .collect();
    let wanted: Vec<String> = [2]
        .into_iter()
        .chain(4..14)
        .map(|n| format!("disk{n}"))
        .collect();
    assert_eq!(names, wanted);
    in_time(agent.wait_protected()).await;
    let guest = shop.guest("disk5").await;
    guest.write(0, vec![5; 512]).await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_points_are_answered_and_nonsense_is_a_failure() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", MIB);
    let agent = shop.start(vec![disk(1, &file)]).await;
    in_time(agent.wait_protected()).await;
    let Answer::AgentStatus(status) = ask(&shop, Request::Status(StatusRequest {})).await else {
        panic!("a status");
    };
    assert_eq!(status.machine, shop.machine.0.as_slice());
    assert!(status.connected && 300 < status.certificate_days);
    let found = &status.disks[0];
    assert_eq!((found.state.as_str(), found.size_bytes), ("protected", MIB));
    assert!(found.export_uri.starts_with("nbd+unix:///disk1?socket="));

    let point = |name: &str| {
        Request::CreatePoint(CreatePoint {
            name: name.into(),
            wait_ms: 30_000,
            app: false,
        })
    };
    let Answer::PointCreated(made) = ask(&shop, point("noon")).await else {
        panic!("a point");
    };
    assert!(made.committed && made.seq != 0);
    for bad in [
        point(""),
        point(&"n".repeat(256)),
        Request::TakeOver(TakeOver::default()),
    ] {
        assert!(matches!(ask(&shop, bad).await, Answer::Failure(_)));
    }
    let garbage = call(&shop.path("control"), b"\xff\xff\xff", CONTROL_LEN_MAX).await;
    let garbage = ControlAnswer::decode(garbage.expect("answered")).expect("an answer");
    assert!(matches!(garbage.answer, Some(Answer::Failure(_))));
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_named_and_nothing_starts() {
    let shop = Workshop::new(Manner::default());
    let file = shop.file("a", MIB);
    let odd = shop.file("odd", 1_000);
    let missing = shop.path("missing");
    for (wrong, said) in [
        (disk(1, &odd), "512 B blocks"),
        (disk(1, &missing), "cannot be found"),
        (
            disk(1, shop.dir.path()),
            "neither a regular file nor a block device",
        ),
    ] {
        let started = everpoint_agent::Agent::start(shop.config(vec![wrong])).await;
        let error = started.err().expect("cannot work");
        let text = format!(
            "{:?} {}",
            error,
            std::error::Error::source(&error).expect("a cause")
        );
        assert!(text.contains(said), "{text}");
    }
    let agent = shop.start(vec![disk(1, &file)]).await;
    let second = everpoint_agent::Agent::start(shop.config(vec![])).await;
    let error = second
        .err()
        .expect("the state directory is in use")
        .to_string();
    assert!(error.contains("in use by another agent"), "{error}");
    agent.kill().await;
}
