package clock

import (
	"time"

	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/workflow"
)

// Interceptor makes the workflows of a worker live by the clock without knowing
// it: what the time is, when they began and how long a timer runs. Timeouts and
// retries of activities stay as they are, since the world they deal with is no
// faster than usual, and so do timeouts of workflows.
func (f Fast) Interceptor() interceptor.WorkerInterceptor { return &worker{clock: f} }

type worker struct {
	interceptor.WorkerInterceptorBase
	clock Fast
}

func (w *worker) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &inbound{interceptor.WorkflowInboundInterceptorBase{Next: next}, w.clock}
}

type inbound struct {
	interceptor.WorkflowInboundInterceptorBase
	clock Fast
}

func (i *inbound) Init(next interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&outbound{interceptor.WorkflowOutboundInterceptorBase{Next: next}, i.clock})
}

// outbound is what a workflow asks of the SDK. Every wait there is comes down
// to one of its two timers: Sleep, AwaitWithTimeout, AwaitWithOptions and a
// channel's ReceiveWithTimeout make theirs with NewTimerWithOptions, and ask
// for it here once more. To shorten them too would shorten them twice.
type outbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	clock Fast
}

func (o *outbound) Now(ctx workflow.Context) time.Time { return o.clock.At(o.Next.Now(ctx)) }

func (o *outbound) GetInfo(ctx workflow.Context) *workflow.Info {
	info := *o.Next.GetInfo(ctx) // the SDK goes on to use its own
	info.WorkflowStartTime = o.clock.At(info.WorkflowStartTime)
	return &info
}

func (o *outbound) NewTimer(ctx workflow.Context, d time.Duration) workflow.Future {
	return o.Next.NewTimer(ctx, o.clock.Real(d))
}

func (o *outbound) NewTimerWithOptions(ctx workflow.Context, d time.Duration, options workflow.TimerOptions) workflow.Future {
	return o.Next.NewTimerWithOptions(ctx, o.clock.Real(d), options)
}
