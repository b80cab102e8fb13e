//! What happens to one request: it is understood, faults are chosen for it, it is done, and it is answered or not.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};

use super::account::{Account, Circumstances};
use super::answer::{Answer, AnswerBody};
use super::counts::{Counts, FaultCounts, OperationKind};
use super::dates;
use super::faults::{Chance, FaultPlan, Faults};
use super::refusal::Refusal;
use super::request::{Operation, Request};

/// What all connections share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) account_name: String,
    pub(super) account: Account,
    pub(super) faults: Faults,
    pub(super) counts: Mutex<Counts>,
    pub(super) arrived: AtomicU64,
    /// To whom does them when their time has come.
    pub(super) late: mpsc::Sender<LateWrite>,
    /// Those that are still to be done.
    pub(super) late_count: watch::Sender<usize>,
    /// Says that those which wait are to be done now.
    pub(super) land: watch::Sender<()>,
}

/// A write that is yet to be done, though its client has been told that it was not.
#[derive(Debug)]
pub(super) struct LateWrite {
    request: Request,
    body: Vec<Bytes>,
    after: Duration,
    /// Or before, if that is said.
    land: watch::Receiver<()>,
    arrived: u64,
}

/// A connection that is closed on purpose, without an answer.
#[derive(Debug)]
pub(super) struct Closed;

/// One request on its way.
struct Asked<'a> {
    request: &'a Request,
    body: Vec<Bytes>,
    plan: &'a FaultPlan,
    arrived: u64,
}

impl State {
    /// Answers a request.
    pub(super) async fn serve(
        &self,
        request: http::Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Closed> {
        let arrived = self.arrived.fetch_add(1, Ordering::Relaxed);
        let plan = self.faults.plan();
        if plan.unreachable {
            self.fault(|faults| &mut faults.unreachable);
            return Err(Closed);
        }
        let (parts, body) = request.into_parts();
        let now = SystemTime::now() + plan.clock_ahead.unwrap_or_default();
        let parsed = Request::parse(&self.account_name, &parts, now);
        let operation = parsed.as_ref().map(|request| &request.operation);
        let kind = operation.map_or(OperationKind::Unknown, Operation::kind);
        let chance = self.faults.chance(&plan, kind);
        if chance == Chance::LostRequest {
            self.counts().of_mut(kind).requests += 1;
            self.fault(|faults| &mut faults.lost_requests);
            return Err(Closed);
        }
        let len_max = operation.map_or(0, Operation::body_len_max);
        // A refusal is heard only by a client that could send what it wanted to say.
        let (body, body_len) = receive(body, len_max).await.map_err(|_| Closed)?;
        {
            let mut counts = self.counts();
            let counts = counts.of_mut(kind);
            counts.requests += 1;
            counts.bytes_in += body_len;
        }
        let answered = match &parsed {
            Ok(request) => {
                let asked = Asked {
                    request,
                    body,
                    plan: &plan,
                    arrived,
                };
                self.done(asked, chance).await
            }
            Err(refusal) => Ok(Answer::refused(refusal)),
        };
        if let Some(slow) = plan.slow.filter(|_| plan.concerns(kind)) {
            tokio::time::sleep(slow).await;
            self.fault(|faults| &mut faults.slow);
        }
        let mut answer = answered?;
        answer.set("date", dates::http_date(now));
        answer.set(
            "x-ms-request-id",
            format!("{arrived:08x}-0000-4000-8000-000000000000"),
        );
        for name in ["x-ms-version", "x-ms-client-request-id"] {
            if let Some(value) = parts.headers.get(name).map(HeaderValue::to_str) {
                answer.set(name, value.unwrap_or_default());
            }
        }
        let is_head = parts.method == Method::HEAD;
        let is_success = answer.status.is_success();
        let response = answer.into_response(is_head);
        let mut counts = self.counts();
        let counts = counts.of_mut(kind);
        counts.succeeded += u64::from(is_success);
        counts.bytes_out += response.body().len();
        Ok(response)
    }

    /// Does a late write when its time has come.
    pub(super) async fn do_late(self: Arc<Self>, mut write: LateWrite) {
        // Neither loses anything when the other is first.
        tokio::select! {
            () = tokio::time::sleep(write.after) => {}
            _ = write.land.changed() => {}
        }
        let circumstances = Circumstances {
            arrived: write.arrived,
            is_late: true,
            copy_takes: Duration::ZERO,
        };
        let done = self
            .account
            .execute(&write.request, &write.body, circumstances);
        match done {
            Ok(_) => self.fault(|faults| &mut faults.late_executed),
            Err(_) => self.fault(|faults| &mut faults.late_refused),
        }
        self.late_count.send_modify(|count| *count -= 1);
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fault(&self, which: impl FnOnce(&mut FaultCounts) -> &mut u64) {
        *which(&mut self.counts().faults) += 1;
    }

    /// Does what is asked for, or what the faults make of it.
    async fn done(&self, asked: Asked<'_>, chance: Chance) -> Result<Answer, Closed> {
        if let Err(refusal) = self.admit(&asked) {
            return Ok(Answer::refused(&refusal));
        }
        let execute = || {
            let circumstances = Circumstances {
                arrived: asked.arrived,
                is_late: false,
                copy_takes: asked.plan.copy_takes.unwrap_or_default(),
            };
            let done = self
                .account
                .execute(asked.request, &asked.body, circumstances);
            done.unwrap_or_else(|refusal| Answer::refused(&refusal))
        };
        match chance {
            Chance::Nothing => Ok(execute()),
            Chance::Error500 => {
                self.fault(|faults| &mut faults.error_500);
                Ok(Answer::refused(&Refusal::TIMED_OUT))
            }
            Chance::Error500Executed => {
                execute();
                self.fault(|faults| &mut faults.error_500_executed);
                Ok(Answer::refused(&Refusal::TIMED_OUT))
            }
            Chance::Error503 => {
                self.fault(|faults| &mut faults.error_503);
                let busy = Refusal::SERVER_BUSY.after(Duration::from_secs(1));
                Ok(Answer::refused(&busy))
            }
            Chance::LostAnswer => {
                execute();
                self.fault(|faults| &mut faults.lost_answers);
                Err(Closed)
            }
            Chance::LostRequest => Err(Closed),
            Chance::Late { after, is_closed } => {
                self.fault(|faults| &mut faults.late);
                // Counted before the client hears of it, so that one that has heard can wait for it.
                self.late_count.send_modify(|count| *count += 1);
                let write = LateWrite {
                    request: asked.request.clone(),
                    body: asked.body,
                    after,
                    land: self.land.subscribe(),
                    arrived: asked.arrived,
                };
                // The other end is gone only when the server stops.
                self.late.send(write).await.map_err(|_| Closed)?;
                match is_closed {
                    true => Err(Closed),
                    false => Ok(Answer::refused(&Refusal::TIMED_OUT)),
                }
            }
        }
    }

    /// Whether the switches that leave nothing to chance let a request through.
    fn admit(&self, asked: &Asked<'_>) -> Result<(), Refusal> {
        let Asked { request, plan, .. } = asked;
        let kind = request.operation.kind();
        if plan.expired_credential && plan.concerns(kind) {
            self.fault(|faults| &mut faults.expired_credential);
            return Err(Refusal::AUTHENTICATION_FAILED);
        }
        if plan.no_permission && kind.is_write() {
            self.fault(|faults| &mut faults.no_permission);
            return Err(Refusal::NO_PERMISSION);
        }
        let is_forbidden = plan.worm && kind.is_forbidden_by_worm();
        if is_forbidden
            && self
                .account
                .len(&request.container, &request.blob)
                .is_some()
        {
            self.fault(|faults| &mut faults.worm);
            return Err(Refusal::BLOB_IMMUTABLE);
        }
        let throttle = plan.throttle.filter(|_| plan.concerns(kind));
        if let Some(throttle) = throttle.filter(|_| !request.blob.is_empty()) {
            let blob = format!("{}/{}", request.container, request.blob);
            let bytes = self.bytes_moved(asked);
            let paced = self.faults.pace(throttle, &blob, bytes, Instant::now());
            if let Err(wait) = paced {
                self.fault(|faults| &mut faults.throttled);
                return Err(Refusal::SERVER_BUSY.after(wait));
            }
        }
        Ok(())
    }

    /// How many bytes of content a request reads or writes.
    fn bytes_moved(&self, asked: &Asked<'_>) -> u64 {
        let request = asked.request;
        match &request.operation {
            Operation::PutPageFromUrl { extent, .. } => extent.end - extent.start,
            Operation::GetBlob { range, .. } => {
                let len = self.account.len(&request.container, &request.blob);
                let len = len.unwrap_or_default();
                let start = range.map_or(0, |range| range.start);
                let end = range.and_then(|range| range.end).unwrap_or(len);
                end.min(len).saturating_sub(start)
            }
            _ => asked.body.iter().map(|piece| piece.len() as u64).sum(),
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the connection is closed on purpose")
    }
}

impl std::error::Error for Closed {}

/// A body as it comes, of which no more than `len_max` is kept, and how long it was.
async fn receive(mut body: Incoming, len_max: u64) -> Result<(Vec<Bytes>, u64), hyper::Error> {
    let (mut pieces, mut len) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            len += piece.len() as u64;
            if len <= len_max {
                pieces.push(piece);
            }
        }
    }
    Ok((pieces, len))
}
