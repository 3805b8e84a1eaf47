"""tasks: the table of tasks."""
NAMES = ()


def run(options, commands, folder, results, failed, say, stack):
    return {}


def print_table(done, options):
    pass
