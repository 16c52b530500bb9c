def cuda_tests(run):
    pass


def studies(run):
    pass
