//! The requests of one connection that are not finished: each is polled when it was woken itself, and not before.
//!
//! `FuturesUnordered` does the same and is polite beside: it polls what is new a second time, and when it has polled
//! all that it holds it wakes its own task, so that others get a turn. On a runtime of several threads a task that
//! wakes itself is offered to another thread, and that one is woken for it: with one request at a time, every
//! request. Measured: three switches of threads more a direct write, and its completion on the thread that did not
//! hand it in.
//!
//! No wake is lost: whoever wakes first notes the place, then wakes the task; the task first says whom to wake, then
//! looks at the notes.

use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// See the module.
pub(super) struct Running<'e, T> {
    places: Vec<Place<'e, T>>,
    /// Indices of places without a future.
    free: Vec<usize>,
    woken: Arc<Woken>,
    /// Notes that are acted upon, the first last.
    due: Vec<usize>,
}

struct Place<'e, T> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send + 'e>>>,
    /// A place keeps its waker: one that outlives its future polls the next one once too often, no more.
    waker: Waker,
    bell: Arc<Bell>,
}

/// Wakes one place.
struct Bell {
    index: usize,
    /// It is among the notes.
    noted: AtomicBool,
    woken: Arc<Woken>,
}

/// What all places share.
struct Woken {
    /// Places that were woken since the last look, each once.
    notes: Mutex<Vec<usize>>,
    task: AtomicWaker,
}

impl<'e, T> Running<'e, T> {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            woken: Arc::new(Woken {
                notes: Mutex::default(),
                task: AtomicWaker::new(),
            }),
            due: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Polls `future` once. It is kept until it is ready.
    pub(super) fn start(
        &mut self,
        cx: &Context<'_>,
        future: impl Future<Output = T> + Send + 'e,
    ) -> Poll<T> {
        self.woken.task.register(cx.waker());
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        self.places[index].future = Some(Box::pin(future));
        self.poll(index)
    }

    /// Polls what was woken until something is ready. `Pending`: nothing is, and the task is woken when that may have
    /// changed.
    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.woken.task.register(cx.waker());
        if self.due.is_empty() {
            mem::swap(&mut self.due, &mut self.woken.notes());
            self.due.reverse();
        }
        while let Some(index) = self.due.pop() {
            // Before the poll: what wakes from now on may be something that the poll does not see.
            self.places[index].bell.noted.swap(false, AcqRel);
            if let Poll::Ready(output) = self.poll(index) {
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    }

    fn poll(&mut self, index: usize) -> Poll<T> {
        let place = &mut self.places[index];
        let Some(future) = &mut place.future else {
            return Poll::Pending;
        };
        let polled = future.as_mut().poll(&mut Context::from_waker(&place.waker));
        if polled.is_ready() {
            place.future = None;
            self.free.push(index);
        }
        polled
    }

    fn add_place(&mut self) -> usize {
        let index = self.places.len();
        let bell = Arc::new(Bell {
            index,
            noted: AtomicBool::new(false),
            woken: Arc::clone(&self.woken),
        });
        self.places.push(Place {
            future: None,
            waker: Arc::clone(&bell).into(),
            bell,
        });
        index
    }
}

impl Woken {
    fn notes(&self) -> MutexGuard<'_, Vec<usize>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.noted.swap(true, AcqRel) {
            self.woken.notes().push(self.index);
            self.woken.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// A future that ends when it is told, and how often it was polled.
    fn told(polls: &Arc<Count>) -> (oneshot::Sender<u32>, impl Future<Output = u32> + use<>) {
        let (tell, mut told) = oneshot::channel();
        let polls = Arc::clone(polls);
        let future = poll_fn(move |cx| {
            polls.0.fetch_add(1, Relaxed);
            Pin::new(&mut told).poll(cx).map(|told| told.unwrap_or(0))
        });
        (tell, future)
    }

    #[test]
    fn what_is_not_ready_neither_wakes_its_task_nor_is_polled_again() {
        let (wakes, polls) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let cx = Context::from_waker(&waker);
        let mut running = Running::new();
        let (tell, future) = told(&polls);
        assert!(running.start(&cx, future).is_pending());
        let (_kept, other) = told(&polls);
        assert!(running.start(&cx, other).is_pending());
        assert!(running.poll_next(&cx).is_pending());
        assert_eq!((wakes.0.load(Relaxed), polls.0.load(Relaxed)), (0, 2));
        tell.send(7).expect("it waits");
        assert_eq!(wakes.0.load(Relaxed), 1);
        assert_eq!(running.poll_next(&cx), Poll::Ready(7));
        assert!(running.poll_next(&cx).is_pending());
        assert_eq!((running.len(), polls.0.load(Relaxed)), (1, 3));
    }

    #[test]
    fn what_is_ready_at_once_takes_no_place() {
        let mut running = Running::new();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(running.start(&cx, async { 7 }), Poll::Ready(7));
        assert!(running.is_empty());
    }

    #[test]
    fn a_waker_that_outlives_its_future_does_the_next_one_no_harm() {
        let mut running = Running::new();
        let cx = Context::from_waker(Waker::noop());
        let (keep, kept) = std::sync::mpsc::channel();
        let first = poll_fn(move |cx| {
            keep.send(cx.waker().clone()).expect("the test listens");
            Poll::Ready(0)
        });
        assert_eq!(running.start(&cx, first), Poll::Ready(0));
        let kept: Waker = kept.recv().expect("it was polled");
        kept.wake_by_ref();
        assert!(running.poll_next(&cx).is_pending());
        let polls = Arc::new(Count::default());
        let (tell, future) = told(&polls);
        assert!(running.start(&cx, future).is_pending());
        kept.wake();
        assert!(running.poll_next(&cx).is_pending());
        assert_eq!(polls.0.load(Relaxed), 2, "once too often");
        tell.send(7).expect("it waits");
        assert_eq!(running.poll_next(&cx), Poll::Ready(7));
    }

    #[tokio::test]
    async fn no_wake_from_another_thread_is_lost() {
        let mut running = Running::new();
        let (mut begun, mut sum) = (0_u32, 0);
        let (hand_over, tells) = std::sync::mpsc::channel::<(u32, oneshot::Sender<u32>)>();
        let teller = thread::spawn(move || {
            for (number, tell) in tells {
                tell.send(number).expect("it waits");
            }
        });
        poll_fn(|cx| {
            loop {
                while begun < 20_000 && running.len() < 16 {
                    begun += 1;
                    let (tell, future) = told(&Arc::default());
                    hand_over.send((begun, tell)).expect("it listens");
                    if let Poll::Ready(number) = running.start(cx, future) {
                        sum += number;
                    }
                }
                match running.poll_next(cx) {
                    Poll::Ready(number) => sum += number,
                    Poll::Pending if running.is_empty() => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        drop(hand_over);
        teller.join().expect("it told all");
        assert_eq!(sum, 20_000 * 20_001 / 2);
    }
}
