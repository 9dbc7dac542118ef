"""The kernels' contract: three names, the same in every module below, and two that may be there.

``hadamard_sigma_prime(v, z, a, activation)``
    BP1 with v = grad_a C, BP2 with v = delta^{l+1} w^{l+1}: v (x) sigma'(z); all (m, n).
``outer_sum(delta, a)``
    BP4 and BP3 summed over the mini-batch: (sum_x delta a^T, sum_x delta), from (m, j) and (m, k)
    to (j, k) and (j,).
``Stepper(plan, parameters, x, y)``
    The whole algorithm for consecutive mini-batches. ``run(order, numbers)`` trains on the examples
    of ``order`` (indices, int64) in mini-batches of ``plan.batch_size``, the last one smaller if
    need be, updates ``parameters``, their state among them, in place and returns the cost that each
    mini-batch had before its update, summed over its examples, penalty included: a float64 array on
    the host, one number a mini-batch. ``numbers`` (mini-batches, k), float64, are the k numbers of
    ``plan.rule`` in each. The costs' bits, as those of the weights, depend neither on how a run is
    cut at mini-batches nor on the number of threads. An empty ``order`` changes nothing. Making a
    Stepper compiles what ``run`` needs; the parameters' state may still be put there before the
    first run. x and y may lie on the host also where the parameters are on a GPU.
``score(parameters, activations, cost, x, y)``
    Optional: (the sum of the examples' costs, how many are in the class of y). Without it the
    network computes them by its array library.
``side_by_side(plan, networks, x, y)``
    Optional: how so many networks of this plan train together on x and y, or None where one after
    another is as good. It has ``stepper(plan, parameters)``, the Stepper of one of them, and
    ``run(pieces)``: for each (stepper, order, numbers) what its ``run`` does, to the bit, and the
    list of what these return.

``reference`` (plain NumPy) defines what ``cpu`` (Numba) and ``cuda`` (CUDA C) must compute.
"""
