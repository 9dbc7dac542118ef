// next_steps: *first += examples, the place in the epoch's order from which the next launches
// count.
//
// The one thing that changes from replay to replay of a graph lives in device memory, so that the
// graph itself never changes. Launch: one thread, once for all the steps of a graph.

extern "C" __global__ void next_steps(long long* first, long long examples)
{
    *first += examples;
}
