// next_steps: what follows the launches of some mini-batches: the cost of each, and where the next
// begin.
//
//     objective[*done + s] = sum over parts of cost[s],  cost (steps, parts);  *done += steps
//     *first += examples, the place in the epoch's order from which the next launches count
//
// What changes from replay to replay of a graph lives in device memory, so that the graph itself
// never changes. The parts are those that the blocks of BP1 and of the updates wrote, each added
// once, in order and in double: a mini-batch's cost has the same bits however an epoch is cut.
//
// Launch: one block, once for all the steps of a graph; a thread a step.

extern "C" __global__ void __launch_bounds__(BLOCK) next_steps(
    long long* first, long long* done, long long examples, int steps, int parts,
    const double* cost, double* objective)
{
    const int step = threadIdx.x;
    const long long before = *done;
    if (step < steps) {
        double sum = 0;
        for (int part = 0; part < parts; part++) sum += cost[step * parts + part];
        objective[before + step] = sum;
    }
    __syncthreads();  // all have read how many were done
    if (step == 0) {
        *first += examples;
        *done = before + steps;
    }
}
