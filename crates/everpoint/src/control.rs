//! Asks a running agent or process server on its control socket.

use std::path::Path;

use everpoint_transport::control::call;
use everpoint_wire::CONTROL_LEN_MAX;
use everpoint_wire::control::control_answer::Answer;
use everpoint_wire::control::control_request::Request;
use everpoint_wire::control::{ControlAnswer, ControlRequest};
use prost::Message as _;

use crate::failure::{Code, Failure};

/// Sends a request and waits for its answer, which is none of failure.
///
/// # Errors
///
/// Nobody answers, or the answer is that it failed.
pub(crate) async fn ask(socket: &Path, request: Request) -> Result<Answer, Failure> {
    let request = ControlRequest {
        request: Some(request),
    };
    let answered = call(socket, &request.encode_to_vec(), CONTROL_LEN_MAX).await;
    let answer = answered.map_err(|error| Failure::of(Code::Failed, &error))?;
    let answer = ControlAnswer::decode(answer)
        .ok()
        .and_then(|answer| answer.answer);
    match answer {
        Some(Answer::Failure(failure)) => {
            let told = Failure::new(Code::Failed, failure.text);
            Err(match failure.remedy.as_str() {
                "" => told,
                remedy => told.help(remedy),
            })
        }
        Some(answer) => Ok(answer),
        None => Err(not_understood()),
    }
}

/// An answer that does not belong to the request.
pub(crate) fn not_understood() -> Failure {
    Failure::new(Code::Failed, "the answer was not understood")
        .help("use an everpoint of the same version as the one that runs")
}

/// An id as text; a dash where there is none.
pub(crate) fn id(bytes: &[u8]) -> String {
    match <[u8; 16]>::try_from(bytes) {
        Ok(id) => everpoint_units::DiskId(id).to_string(),
        Err(_) => "-".to_owned(),
    }
}
